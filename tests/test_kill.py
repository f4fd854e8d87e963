"""kill -9 at random moments: what was being done goes on, and ends as if nobody had disturbed it."""
from __future__ import annotations

import random
import sys
from collections import Counter

import pytest

from benchmarks.kills import PHASES, PREPARING, kill_preparations, kill_trainings, wants_more

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


def test_kills_go_on_until_each_phase_was_hit_and_say_which_can_not_be():
    assert not wants_more(Counter(reading=3, writing=1), 4, PREPARING)
    assert wants_more(Counter(reading=2, writing=1), 4, PREPARING)
    assert wants_more(Counter(reading=39), 4, PREPARING)
    with pytest.raises(SystemExit, match="40 kills, none of them in writing"):
        wants_more(Counter(reading=40), 4, PREPARING)


@pytest.mark.parametrize(("kills", "epochs"), [(12, 6), pytest.param(40, 12, marks=pytest.mark.slow)])
def test_training_survives_kill_9(kills, epochs, tmp_path):
    hit = kill_trainings(tmp_path, kills, random.Random(0), epochs)
    assert all(hit[phase] for phase in PHASES)


def test_preparation_survives_kill_9(tmp_path):
    pytest.importorskip("PIL")
    assert kill_preparations(tmp_path, 6, random.Random(0))["writing"]
