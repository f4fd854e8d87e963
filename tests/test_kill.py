"""kill -9 at random moments: what was being done goes on, and ends as if nobody had disturbed it."""
from __future__ import annotations

import random
import sys

import pytest

from benchmarks.kills import PHASES, kill_preparations, kill_trainings

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


@pytest.mark.parametrize(("kills", "epochs"), [(12, 6), pytest.param(40, 12, marks=pytest.mark.slow)])
def test_training_survives_kill_9(kills, epochs, tmp_path):
    hit = kill_trainings(tmp_path, kills, random.Random(0), epochs)
    assert all(hit[phase] for phase in PHASES)


def test_preparation_survives_kill_9(tmp_path):
    pytest.importorskip("PIL")
    assert kill_preparations(tmp_path, 6, random.Random(0))["writing"]
