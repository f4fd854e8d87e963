"""docs/hyperparameters.md explains every field of the configuration, with the default that it has."""
import dataclasses
import re
from pathlib import Path

import pytest

from xmodal import TrainConfig

PAGE = (Path(__file__).parent.parent / "docs" / "hyperparameters.md").read_text(encoding="utf-8")
FIELDS = {field.name: field.default for field in dataclasses.fields(TrainConfig)}


def explained(page: str) -> dict[str, str]:
    """The fields that the page's first table explains, each with the default in parentheses behind it."""
    table = page.partition("| field |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \((.+?)\) \|", table, re.MULTILINE)
    return {name: default for names, default in rows for name in re.findall(r"\w+", names)}


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_is_explained_with_its_default(name):
    shown = explained(PAGE)
    assert name in shown, f"docs/hyperparameters.md has no row for {name}"
    default = FIELDS[name]
    if isinstance(default, float):
        assert float(shown[name]) == default
    else:
        assert shown[name].strip('"') == str(default)


def test_no_row_is_of_a_field_that_is_gone():
    assert set(explained(PAGE)) == set(FIELDS)


def test_a_row_that_is_taken_out_is_missed():
    assert "patience" not in explained(re.sub(r"(?m)^\| `patience`.*\n", "", PAGE))
