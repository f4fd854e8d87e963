"""Embeddings to search in: a model trained on MNIST halves, and its embeddings repeated with noise of their own.

`models/mnist_halves_learned_cont.py` (or `..._ccal_cont.py`), 128 dimensions, four epochs on 60,000 pairs: validation
pairs are added to the training pairs. Items are right halves of training pairs. Where more than 60,000 are wanted, they
come again and again, each time with Gaussian noise that has the covariance of the differences between an item and its
nearest neighbour: so a repeated item lies as far from the original as another real item would, and in the directions in
which real items differ. Queries are left halves of test pairs; ``asked``, which indexes are tuned with, left halves of
training pairs.
"""
from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.speed.common import Row
from benchmarks.speed.step import sixty_thousand
from benchmarks.trainings import MODELS
from xmodal import fit, load_experiment
from xmodal.nearest import nearest
from xmodal.networks import evaluating

HEADS = {"mnist_halves_learned_cont": "learned projection", "mnist_halves_ccal_cont": "CCA layer"}
WIDTH, EPOCHS = 128, 4
QUERIES, SAMPLE, BLOCK = 1000, 5000, 50_000


def prepare(file: Path, name: str, quick: bool = False) -> Row:
    """Trains the model and writes its embeddings to a file; returns what is to be said of them."""
    data = sixty_thousand(6000 if quick else 60_000)
    experiment = load_experiment(MODELS / f"{name}.py", {"dim_latent": WIDTH, "max_epochs": EPOCHS,
                                                          "patience": EPOCHS, "keep": "last"})
    torch.manual_seed(0)
    model = experiment.build_model(data.view1_shape, data.view2_shape)
    fit(model, experiment.build_objective(), data, experiment.config, seed=0)
    with evaluating(model), torch.no_grad():
        items, asked, queries = (torch.cat([embed(some) for some in view.split(BLOCK)]) for embed, view in (
            (model.embed_view2, data.train.view2), (model.embed_view1, data.train.view1),
            (model.embed_view1, data.test.view1[:QUERIES])))
    made = {"items": normalize(items), "asked": normalize(asked), "queries": normalize(queries)}
    chosen = torch.randperm(len(items), generator=torch.Generator().manual_seed(0))[:SAMPLE]
    neighbours = nearest(made["items"][chosen], made["items"], 2).rows[:, 1]
    differences = made["items"][chosen] - made["items"][neighbours]
    covariance = differences.T @ differences / len(differences)
    made["noise"] = torch.linalg.cholesky(covariance + 1e-9 * torch.eye(WIDTH)).contiguous()
    save_file(made, file)
    return {"data": data.name, "model": name, "what": HEADS[name], "epochs": EPOCHS, "distinct_items": len(items),
            "dim": WIDTH, "distance_of_nearest": {"real": distance_of_nearest(made["items"]),
                                    "repeated": distance_of_nearest(repeated(made, len(items) * 4))}}


def read(file: Path) -> dict[str, Tensor]:
    """``items``, ``asked``, ``queries`` of length one, and the factor of the covariance of the noise."""
    return load_file(file)


def repeated(made: dict[str, Tensor], count: int) -> Tensor:
    """``count`` items (n, d) float32 of length one."""
    return torch.cat([block(made, first, min(BLOCK, count - first)) for first in range(0, count, BLOCK)])


def block(made: dict[str, Tensor], first: int, count: int) -> Tensor:
    """Some of them, drawn by their place; the first round of items is without noise."""
    items = made["items"]
    rows = torch.arange(first, first + count)
    noise = torch.randn(count, items.shape[1], generator=torch.Generator().manual_seed(first)) @ made["noise"].T
    noise[rows < len(items)] = 0
    return normalize(items[rows % len(items)] + noise)


def distance_of_nearest(items: Tensor, count: int = 1000) -> float:
    """The median over some items of the distance to the nearest other one."""
    chosen = torch.linspace(0, len(items) - 1, count).long()
    cosines = nearest(items[chosen], items, 2).scores[:, 1]
    return float((2 - 2 * cosines).clamp_min(0).sqrt().median())
