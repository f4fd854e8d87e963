"""kill -9 at random moments: what was being done goes on, and ends as if nobody had disturbed it."""
from __future__ import annotations

import random
import sys

import pytest

from benchmarks.kills import PHASES, kill_preparations, kill_trainings

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


def test_training_survives_kill_9(tmp_path):
    hit = kill_trainings(tmp_path, 20, random.Random(0))
    assert all(hit[phase] for phase in PHASES)


def test_preparation_survives_kill_9(tmp_path):
    pytest.importorskip("PIL")
    assert kill_preparations(tmp_path, 6, random.Random(0))["writing"]
