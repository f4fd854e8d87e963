"""The first cases of every target of ``benchmarks.fuzz``, in this process: each succeeds or is refused in one line."""
from __future__ import annotations

import collections
import pickle
import sys
from pathlib import Path

import pytest

ROOT = str(Path(__file__).parents[1])
if ROOT not in sys.path:  # pytest adds only this folder
    sys.path.append(ROOT)

from benchmarks.fuzz.__main__ import TARGETS  # noqa: E402
from benchmarks.fuzz.harness import REFUSED, SUCCESS, WrongError, answer, canary, run_case  # noqa: E402
from benchmarks.fuzz.mutations import Malicious  # noqa: E402

CASES = {"hdf5": 40, "npz": 80, "run_folder": 30, "logs": 40, "model_files": 80, "command_lines": 40, "captions": 60,
         "galleries": 30, "readers": 80}


@pytest.mark.parametrize("target", TARGETS)
def test_the_first_cases(target, tmp_path):
    case = TARGETS[target](tmp_path)
    outcomes = collections.Counter(run_case(case, 0, target, number) for number in range(CASES[target]))
    assert outcomes[SUCCESS] > 0 and outcomes[REFUSED] > 0 and len(outcomes) == 2


def test_a_case_is_made_of_its_number_alone(tmp_path):
    written = []

    def case(rng, folder):
        written.append(rng.random())
        return SUCCESS

    for number in (3, 4, 3):
        run_case(case, 0, "x", number)
    assert written[0] == written[2] != written[1]


def test_code_from_data_is_found_out(tmp_path):
    def made(rng, folder):
        canary(folder).touch()
        return SUCCESS

    def loaded(rng, folder):
        with pytest.raises(OSError, match="find_class"):
            pickle.loads(pickle.dumps(Malicious(folder / "x")))
        return SUCCESS

    with pytest.raises(WrongError, match="the canary file is there"):
        run_case(made, 0, "x", 0)
    with pytest.raises(WrongError, match=r"did what it must not: pickle\.find_class"):
        run_case(loaded, 0, "x", 0)


def printing(text: str, code: int):
    def command() -> int:
        print(text, file=sys.stderr)
        return code

    return command


@pytest.mark.parametrize(("text", "code"), [
    ("error: a\nb", 2), ("error: a\nerror: b", 2), ("", 2), ("error: a", 0), ("error: a", 1),
    ("Traceback (most recent call last)\nerror: a", 2)])
def test_wrong_answers_are_found_out(text, code):
    with pytest.raises(WrongError):
        answer(printing(text, code))


def test_right_answers():
    assert answer(printing("warning: odd\nerror: a", 2)).outcome == REFUSED
    assert answer(printing("warning: odd", 0)).outcome == SUCCESS
