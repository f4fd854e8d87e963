"""Data that several test modules share, named for what it is."""
from __future__ import annotations

import os

import hypothesis
import pytest
import torch
from browser import chromium  # noqa: F401 (a fixture, one browser for all test modules)
from torch import Tensor

from xmodal.data import PairedData, PairSplit

# New examples on every run of a developer; the same ones in CI, where a failure must be somebody's own.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None)
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


def correlated_views(n: int, d1: int, d2: int, shared: int, noise: float, generator: torch.Generator
                     ) -> tuple[Tensor, Tensor]:
    """Two linear views of ``shared`` common factors, with noise."""
    mixing = torch.Generator().manual_seed(99)  # the same in every split
    A = torch.randn(shared, d1, generator=mixing)
    B = torch.randn(shared, d2, generator=mixing)
    factors = torch.randn(n, shared, generator=generator)
    x = factors @ A + noise * torch.randn(n, d1, generator=generator)
    y = factors @ B + noise * torch.randn(n, d2, generator=generator)
    return x, y


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Small problems, noisy machines: more threads only make the tests slower."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def every_warning() -> None:
    """Torch gives some warnings once a process; which test fails by them should not depend on the order of tests."""
    torch.set_warn_always(True)


@pytest.fixture
def correlated_pairs() -> PairedData:
    """200 training, 60 validation and 60 test pairs of widths 12 and 9 with 6 common factors."""
    generator = torch.Generator().manual_seed(0)
    splits = [PairSplit(name, *correlated_views(n, 12, 9, 6, 0.5, generator))
              for name, n in (("train", 200), ("valid", 60), ("test", 60))]
    return PairedData("correlated", *splits).with_fingerprint()


@pytest.fixture
def captioned_pictures() -> PairedData:
    """A 1:n problem: 80, 20 and 20 pictures with three captions each, and four captions without a picture."""
    generator = torch.Generator().manual_seed(1)
    splits = []
    for name, n in (("train", 80), ("valid", 20), ("test", 20)):
        pictures, _ = correlated_views(n, 12, 9, 6, 0.2, generator)
        captions = (pictures @ torch.randn(12, 9, generator=torch.Generator().manual_seed(5))).repeat_interleave(3, 0)
        captions = captions + 0.3 * torch.randn(captions.shape, generator=generator)
        lonely = torch.randn(4, 9, generator=generator)
        table = torch.stack([torch.arange(n).repeat_interleave(3), torch.arange(3 * n)], dim=1)
        splits.append(PairSplit(name, pictures, torch.cat([captions, lonely]), pairs=table))
    return PairedData("captioned", *splits).with_fingerprint()
