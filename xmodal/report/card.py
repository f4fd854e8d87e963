"""A model card: what a run is, how it was trained, what it scored, how to use it. Pure text from what the run holds.

The metadata in front are those of Hugging Face's model cards (https://huggingface.co/docs/hub/model-cards).
"""
from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from xmodal.metrics import DIRECTIONS, PRIMARY
from xmodal.report.escaping import markdown, markdown_code, one_paragraph, yaml_string

#: Licences as data sets name them, and their identifiers on the Hub.
_LICENCES = {"cc by 4.0": "cc-by-4.0", "cc by-sa 4.0": "cc-by-sa-4.0", "cc by-sa 3.0": "cc-by-sa-3.0",
             "cc by 3.0": "cc-by-3.0", "cc by-nc 4.0": "cc-by-nc-4.0", "cc0": "cc0-1.0", "cc0 1.0": "cc0-1.0",
             "mit": "mit", "apache 2.0": "apache-2.0", "apache license 2.0": "apache-2.0",
             "bsd 3-clause": "bsd-3-clause"}
_METRICS = (("r1", "recall_at_1", "Recall at 1 (percent)"), ("r5", "recall_at_5", "Recall at 5 (percent)"),
            ("r10", "recall_at_10", "Recall at 10 (percent)"), ("r25", "recall_at_25", "Recall at 25 (percent)"),
            ("median_rank", "median_rank", "Median rank"), ("mrr", "mrr", "Mean reciprocal rank"))
_ASKS = {"V1_to_V2": "view 1 asks for view 2", "V2_to_V1": "view 2 asks for view 1"}


def model_card(name: str, about: Mapping[str, Any], model: Mapping[str, Any], log: Sequence[Mapping[str, Any]],
               metrics: Mapping[str, Any] | None, *, docstring: str, folder: str, commands: Sequence[str]) -> str:
    """The text of ``card.md``.

    Args:
        name: of the run.
        about: its ``config.json``.
        model: ``{"class": "TwoTower", "head": "CCALayer" or None, "parameters": 89648, None for a closed form}``.
        log: lines of its ``log.jsonl``.
        metrics: its ``metrics.json``, None where it was not evaluated.
        docstring: of its model file.
        folder: where it lies, for the example.
        commands: shell lines that train the same again.
    """
    quoted = [f"> {line}".rstrip() for line in _clean(docstring).strip().splitlines()]
    parts = [_front(name, about, metrics), f"# {markdown(name)}", *(["\n".join(quoted)] if quoted else []),
             _summary(about), "## The model", _model(about, model), "## How it was trained", _training(about, log),
             "## Results", *_results(about, metrics), "## How to use it", _usage(about, folder),
             "## How to train it again", _again(about, commands), "## Limits", _limits(about, metrics)]
    return "\n\n".join(parts) + "\n"


# -- metadata ----------------------------------------------------------------------------------------------------------


def _front(name: str, about: Mapping[str, Any], metrics: Mapping[str, Any] | None) -> str:
    data = about["data"]
    licence = _LICENCES.get(one_paragraph(data.get("licence") or "").lower())
    tags = ["xmodal", "cross-modal-retrieval", *(["synthetic-data"] if data.get("synthetic") else [])]
    front: dict[str, Any] = {**({"license": licence} if licence else {}), "library_name": "xmodal", "tags": tags,
                             "datasets": [str(data.get("name", ""))], "metrics": [key for _, key, _ in _METRICS]}
    if metrics is not None:
        front["model-index"] = [{"name": name, "results": [
            {"task": {"type": "retrieval", "name": f"Cross-modal retrieval, {direction} ({_ASKS[direction]})"},
             "dataset": {"type": str(data.get("name", "")), "name": str(data.get("title") or data.get("name", "")),
                         "split": str(metrics.get("split", "test")), "revision": data["fingerprint"]},
             "metrics": [{"type": key, "name": title, "value": metrics[direction][short]}
                         for short, key, title in _METRICS if metrics[direction].get(short) is not None]}
            for direction in DIRECTIONS]}]
    return "\n".join(["---", *_yaml(front), "---"])


def _yaml(value: Mapping[str, Any], indent: str = "") -> list[str]:
    """Nested dictionaries and lists as block YAML; all texts are quoted, whatever they hold."""
    lines = []
    for key, item in value.items():
        if isinstance(item, Mapping):
            lines += [f"{indent}{key}:", *_yaml(item, f"{indent}  ")]
        elif isinstance(item, list):
            lines.append(f"{indent}{key}:")
            for entry in item:
                inner = _yaml(entry, f"{indent}  ") if isinstance(entry, Mapping) else [f"{indent}  {_scalar(entry)}"]
                lines += [f"{indent}- {inner[0].lstrip()}", *inner[1:]]
        else:
            lines.append(f"{indent}{key}: {_scalar(item)}")
    return lines


def _scalar(value: object) -> str:
    if isinstance(value, int | float):
        return f"{value:.6f}" if isinstance(value, float) else str(value)  # 1e-05 would be a text in YAML 1.1
    return yaml_string(value)


# -- text --------------------------------------------------------------------------------------------------------------


def _summary(about: Mapping[str, Any]) -> str:
    data = about["data"]
    made_up = " **The data are synthetic:** its numbers say nothing about real ones." if data.get("synthetic") else ""
    return ("A two-view embedding trained with xmodal: it maps items of either of two views into one space, where "
            f"items that match have a high cosine. Trained on {_code(data.get('title') or data.get('name', ''))}."
            f"{made_up}")


def _model(about: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    data = about["data"]
    names = data.get("views") or ("", "")
    head = f" with head {_code(model['head'])}" if model.get("head") else ""
    size = "fitted in closed form" if model.get("parameters") is None else f"{model['parameters']:,} parameters"
    return _list(("Experiment", _code(about.get("experiment") or "")),
                 ("Class", f"{_code(model['class'])}{head}, {size}"),
                 *((f"View {number}", f"{_code(view)}, " * bool(view) + f"items of shape "
                    f"{' × '.join(map(str, data.get(f'view{number}_shape') or ('unknown',)))}")
                   for number, view in enumerate(names, start=1)))


def _training(about: Mapping[str, Any], log: Sequence[Mapping[str, Any]]) -> str:
    data = about["data"]
    counts = ", ".join(f"{count:,} {split}" for split, count in (data.get("pairs") or {}).items())
    config = ", ".join(f"{key}={value}" for key, value in about["config"].items())
    versions = ", ".join(f"{key} {value}" for key, value in (about.get("versions") or {}).items())
    return _list(
        ("Data", f"{_code(data.get('title') or data.get('name', ''))}"
                 + (f", version {markdown(data['version'])}" if data.get("version") else "")
                 + (", synthetic" if data.get("synthetic") else "")),
        ("Source", markdown(data.get("source") or "not known")),
        ("Licence of the data", markdown(data.get("licence") or "not known")),
        ("Fingerprint (SHA-256)", _code(data["fingerprint"])), ("Pairs", markdown(counts) or "not known"),
        ("Seed", str(about["seed"])), ("Configuration", _code(config)), ("Epochs", _epochs(log)),
        ("Device", _code(about.get("device") or "not known")), ("Versions", markdown(versions) or "not known"),
        ("Git commit", _code(about["git_commit"]) if about.get("git_commit") else "not known"))


def _epochs(log: Sequence[Mapping[str, Any]]) -> str:
    kept = [line for line in log if line.get("best")]
    if not kept:
        return "not known"
    line, key = kept[-1], f"{PRIMARY.key}_va"
    value = f", validation MRR {line[key]:.4f}" if isinstance(line.get(key), int | float) else ""
    seconds = sum(float(each.get("seconds") or 0) for each in log)
    return f"{len(log)} in {seconds:.0f} s; the weights are those of epoch {line.get('epoch')}{value}"


def _results(about: Mapping[str, Any], metrics: Mapping[str, Any] | None) -> list[str]:
    if metrics is None:
        return ["Not evaluated on test pairs yet: `xmodal eval` does, and writes the results here."]
    data, heads = about["data"], ("R@1", "R@5", "R@10", "R@25", "median rank", "MRR")
    table = [f"| | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for direction in DIRECTIONS:
        table.append(f"| {direction} ({_ASKS[direction]}) | {_cells(metrics[direction])} |")
        if "chance" in metrics[direction]:
            table.append(f"| by chance | {_cells(metrics[direction]['chance'])} |")
    first = metrics[DIRECTIONS[0]]
    most = f" of at most {metrics['dim']}" if "dim" in metrics else ""
    return [f"On {metrics.get('n_pairs', 0):,} {markdown(metrics.get('split', 'test'))} pairs of "
            f"{_code(data.get('title') or data.get('name', ''))} ({first.get('n_gallery', 0):,} items of view 2 in the "
            "gallery); hit rates in percent:", "\n".join(table),
            f"Sum correlation {_value(metrics.get('sum_correlation'), 2)}, canonical correlation "
            f"{_value(metrics.get('canonical_correlation'), 2)}{most}. The first can be raised by copying a feature, "
            "the second can't."]


def _cells(values: Mapping[str, Any]) -> str:
    return " | ".join(_value(values.get(key), 3 if key == "mrr" else 2) for key, _, _ in _METRICS)


def _usage(about: Mapping[str, Any], folder: str) -> str:
    shapes = [", ".join(map(str, about["data"].get(f"view{view}_shape") or ())) for view in (1, 2)]
    return "\n".join([
        "```python", "import torch", "from xmodal.runs import load_run", "", f"run = load_run({_clean(folder)!r})",
        f"queries = torch.rand(1, {shapes[0]})      # your items of view 1",
        f"gallery = torch.rand(100, {shapes[1]})    # your items of view 2, prepared as those it was trained on",
        "scores = torch.cosine_similarity(run.embed(1, queries), run.embed(2, gallery))",
        "print(scores.argsort(descending=True)[:5])", "```"])


def _clean(text: str) -> str:
    """Text that a file in UTF-8 can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _again(about: Mapping[str, Any], commands: Sequence[str]) -> str:
    commit = about.get("git_commit")
    at = f" at commit {_code(commit)}" if commit else ""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", "\n".join(commands))), default=0))
    lines = [_clean(command) for command in commands]
    return "\n".join([f"With xmodal{at} and the versions above; `experiment.py` here is the model file as it was:", "",
                      f"{fence}sh", *lines, fence])


def _limits(about: Mapping[str, Any], metrics: Mapping[str, Any] | None) -> str:
    data = about["data"]
    pairs = data.get("pairs") or {}
    lines = []
    if data.get("synthetic"):
        lines.append("The data are made up. No result carries over to real ones.")
    if metrics is None:
        by_loss = about["config"].get("judge") == "loss"
        lines.append("No test result is known; " + ("the validation loss chose the epoch." if by_loss else
                     "the validation MRR above chose the epoch and is therefore optimistic."))
    else:
        queries = min(metrics[direction].get("n_queries") or 1 for direction in DIRECTIONS)
        lines.append(f"{queries:,} queries: a hit rate has a standard error of up to {50 / queries**0.5:.1f} points, "
                     "and ranks are among this gallery, not a larger one.")
    unseen = [split for split in pairs if split.startswith("test_")]
    if unseen:
        lines.append(f"These results leave out the further test pairs {', '.join(map(markdown, unseen))}.")
    lines += ["One training with one seed; others differ (`xmodal compare` shows by how much).",
              "Items from elsewhere than these data, other languages, other devices, or the fairness of what is found "
              "were not evaluated."]
    if about["config"].get("precision") == "bf16":
        lines.append("Towers ran in bfloat16; other hardware may round otherwise.")
    if one_paragraph(data.get("licence") or "").lower() in _LICENCES:
        lines.append("The licence in the metadata is that of the data; the weights' own is for whoever publishes them.")
    else:
        lines.append("No licence is given in the metadata: that of the data is not one with a known identifier.")
    return "\n".join(f"* {line}" for line in lines)


def _list(*items: tuple[str, str]) -> str:
    return "\n".join(f"* {name}: {text}" for name, text in items)


def _value(value: object, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "–"


def _code(text: object) -> str:
    return markdown_code(text)
