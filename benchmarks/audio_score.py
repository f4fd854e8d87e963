"""Sheet music and its sound: what audio_score_best reaches, and linear CCA beside it.

  python -m benchmarks.study audio_heads        # the three published heads, a small budget
  python -m benchmarks.audio_score              # this: three trainings of some 20 minutes on a core, then the table

Trainings are run folders ``runs/audio_score_best-s0`` and so on; one that was stopped is resumed. Their figures go to
results/audio_score.json.
"""
from __future__ import annotations

import argparse
import contextlib
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.study import table
from benchmarks.trainings import MODELS, RESULTS, at, machine, spread, study_parser
from xmodal import LinearCCA, PairedData, embed, evaluate, load_data
from xmodal.augment import RandomAffine, RandomSound
from xmodal.checkpoint import RunFolder
from xmodal.cli import run_eval, run_train
from xmodal.data.batches import pair_batches
from xmodal.metrics.ranks import retrieval_ranks
from xmodal.runs import load_model

FILE = RESULTS / "audio_score.json"
RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
LINEAR = {"linear CCA": 0, "linear CCA, displaced copies": 3}  # passes over the training pairs
EXCERPT = 10  # excerpts of a recording that vote, about five seconds of it
KEPT = {"metrics.json": "test", "metrics_test_timbre.json": "test_timbre"}
FOLDERS = ("bach", "trecento", "other")  # where the corpus keeps a piece
GROUP_COLUMNS = {"pieces R@1, all excerpts": ("groups", "r1"), f"{EXCERPT} excerpts": ("parts", "r1"),
                 "and offset within 1 s": ("parts", "offset_within"), "excerpts located": ("groups", "located")}


def best(seed: int) -> dict[str, Any]:
    """Trains (or resumes, or finds) a run of audio_score_best; what run_eval.py says of it, by split."""
    model = ["--model", str(MODELS / "audio_score_best.py"), "--data", "audio_score", "--tag", f"s{seed}"]
    if run_train.main([*model, "--seed", str(seed), "--resume"]) != 0:
        raise SystemExit(1)
    run = Path("runs") / f"audio_score_best-s{seed}"
    result: dict[str, Any] = {"seed": seed}
    for file, split in KEPT.items():
        for key, options in (("parts", ["--excerpt", str(EXCERPT)]), ("groups", [])):
            with contextlib.redirect_stdout(io.StringIO()):
                if run_eval.main([*model, "--split", split, "--group", "piece", *options]) != 0:
                    raise SystemExit(1)
            metrics = json.loads((run / file).read_text())
            result.setdefault(split, {})[key] = metrics.pop("groups")
            result[split] |= {key: metrics[key] for key in ("V1_to_V2", "V2_to_V1", "sum_correlation",
                                                            "canonical_correlation", "dim", "n_pairs", "fingerprint")}
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return result | {"seconds": sum(line["seconds"] for line in log), "epochs": len(log), "machine": machine(),
                     "valid_mrr": max(line["mrr_va"] for line in log)}


def by_folder(data: PairedData, seed: int) -> dict[str, list[float]]:
    """MRR in both directions of the test pairs of each folder, among all of them."""
    run = RunFolder(Path("runs") / f"audio_score_best-s{seed}")
    model, about, _ = load_model(run, data, RunFolder.WEIGHTS, torch.device("cpu"))
    ranks = retrieval_ranks(*embed(model, data.test, precision=about["config"]["precision"]))
    folders = np.array([folder_of(item) for item in data.test.ids or ()])
    return {name: [float((1 / np.asarray(one)[folders == name]).mean()) for one in (ranks.V1_to_V2, ranks.V2_to_V1)]
            for name in FOLDERS}


def folder_of(item: str) -> str:
    name = item.split("/")[0]
    return name if name in FOLDERS else "other"


def folder_table(rows: list[dict[str, Any]], data: PairedData) -> str:
    """Markdown: MRR by folder, and how many pairs are from there."""
    counts = {split.name: Counter(map(folder_of, split.ids or ())) for split in (data.train, data.test)}
    lines = ["| | train pairs | test pairs | V1_to_V2 MRR | V2_to_V1 MRR |", "|---|---|---|---|---|"]
    for name in FOLDERS:
        cells = [f"{counts[split][name]:,}" for split in ("train", "test")]
        cells += [spread((row["folders"][name][way] for row in rows), 3) for way in (0, 1)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def linear(data: PairedData, passes: int) -> dict[str, Any]:
    """Linear CCA of the raw views, its ridge chosen on the validation pairs: fitted to the training pairs as they are
    (0 passes), or to copies displaced like the other pairs, drawn anew in each pass."""
    torch.manual_seed(0)
    read = LinearCCA(32)
    if passes == 0:
        read.fit_split(data.train)
    else:
        sheet = RandomAffine(data.view1_shape, scale=0.05, shift=0.03, outside="edge")
        sound = RandomSound(frames=1, gain=6)
        read.fit_batches((sheet(batch.view1), sound(batch.view2))
                         for _ in range(passes) for batch in pair_batches(data.train, 500))
    fits = {ridge: LinearCCA(32, r1=ridge, r2=ridge).merge(read) for ridge in RIDGES}
    valid = {ridge: evaluate(model, data, "valid")["V1_to_V2"]["mrr"] for ridge, model in fits.items()}
    ridge = max(valid, key=lambda one: valid[one])
    return {"ridge": ridge, "valid_mrr": valid, "seed": 0, "passes": passes,
            **{split: evaluate(fits[ridge], data, split) for split in KEPT.values()}}


def group_table(rows: list[dict[str, Any]]) -> str:
    """Markdown: what is found of whole pieces, by split and direction."""
    lines = ["| | " + " | ".join(GROUP_COLUMNS) + " |", "|---" * (len(GROUP_COLUMNS) + 1) + "|"]
    for split in KEPT.values():
        for direction, name in (("V2_to_V1", "recording → score"), ("V1_to_V2", "score → recording")):
            cells = [spread((at(row, (split, group, direction, key)) for row in rows), 1)
                     for group, key in GROUP_COLUMNS.values()]
            lines.append(f"| {split}, {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    return study_parser(__doc__).parse_args(argv)


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    done = json.loads(FILE.read_text()) if FILE.exists() else {"best": []}
    data = load_data("audio_score")
    for name, passes in LINEAR.items():
        if name not in done:
            done[name] = linear(data, passes)
            print(name, done[name]["valid_mrr"], flush=True)
    for seed in args.seeds:
        if not any(row["seed"] == seed for row in done["best"]):
            done["best"].append(best(seed) | {"folders": by_folder(data, seed)})
        FILE.write_text(json.dumps(done, indent=1) + "\n")
    for split in KEPT.values():
        rows = {**{name: [done[name][split]] for name in LINEAR},
                "audio_score_best": [row[split] | {"seconds": row["seconds"]} for row in done["best"]]}
        print(f"{split}\n\n{table(rows)}\n")
    print(group_table(done["best"]) + "\n")
    print(folder_table(done["best"], data))


if __name__ == "__main__":
    main()
