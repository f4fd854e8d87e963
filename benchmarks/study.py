"""The tables of the README: experiments × seeds, trained and evaluated, mean ± standard deviation.

  python -m benchmarks.study mnist_heads            # three heads on MNIST halves, 3 seeds
  python -m benchmarks.study small_batches --seeds 0 1 2
  python -m benchmarks.study digits_heads --threads 2

Every finished training is written to benchmarks/results/<study>.json at once; started again, a study goes on where it
stopped. Delete the file to start over.
"""
from __future__ import annotations

import argparse
import json
from typing import Any

import torch

from benchmarks.trainings import MODELS, RESULTS, at, machine, spread, study_parser, train
from xmodal import evaluate, load_data, load_experiment
from xmodal.errors import did_you_mean

METHODS = ("cca", "kcca", "ccal_tno", "learned_cont", "ccal_cont")
# What 2 cores can do in an hour; the model files keep the published settings, such as alpha 1.0, which at batch 100
# needs several times as many epochs to get as far.
AUDIO_BUDGET = {"max_epochs": 6, "schedule": "cosine", "patience": 6, "refinement_steps": 0}
RUNNING = AUDIO_BUDGET | {"alpha": "auto"}
# study -> (data, {row: (model file, overrides)})
STUDIES: dict[str, tuple[str, dict[str, tuple[str, dict[str, Any]]]]] = {
    "audio_heads": ("audio_score", {
        "learned_cont": ("audio_score_learned_cont", AUDIO_BUDGET),
        "ccal_cont, alpha auto": ("audio_score_ccal_cont", RUNNING),
        "best": ("audio_score_best", AUDIO_BUDGET),
        "ccal_tno, alpha auto": ("audio_score_ccal_tno", RUNNING),
        "ccal_cont, alpha 1.0, 10 epochs": ("audio_score_ccal_cont", AUDIO_BUDGET | {"max_epochs": 10,
                                                                                    "patience": 10})}),
    "digits_heads": ("digits", {name: (f"digits_{name}", {}) for name in METHODS}),
    "mnist_heads": ("mnist_halves", {name: (f"mnist_halves_{name}", {}) for name in METHODS}),
    "small_batches": ("mnist_halves", {
        "cca": ("mnist_halves_cca", {}),
        **{f"batch {size}, alpha {alpha}": ("mnist_halves_ccal_cont", {"batch_size": size, "alpha": alpha,
                                                                    "learning_rate": 1e-3, "max_epochs": 10,
                                                                    "patience": 10})
        for size, alpha in ((64, 1.0), (64, "auto"), (1000, 1.0))}}),
}
COLUMNS = {"V1_to_V2 MRR": ("V1_to_V2", "mrr"), "V2_to_V1 MRR": ("V2_to_V1", "mrr"), "V1_to_V2 R@1": ("V1_to_V2", "r1"),
           "sum corr": ("sum_correlation",), "canonical corr": ("canonical_correlation",), "seconds": ("seconds",)}


def train_row(data: Any, model: str, overrides: dict[str, Any], seed: int) -> dict[str, Any]:
    """Trains one experiment with one seed; its test metrics, seconds and epochs."""
    experiment = load_experiment(MODELS / f"{model}.py", overrides)
    network, about = train(data, experiment.config, experiment.build_model, experiment.build_objective, seed)
    return {**evaluate(network, data), **about, "overrides": overrides}


def table(rows: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: a row per experiment, mean ± standard deviation over its seeds."""
    lines = ["| | " + " | ".join(COLUMNS) + " | seeds |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name, results in rows.items():
        cells = []
        for path in COLUMNS.values():
            digits = 3 if path[-1] == "mrr" else 1 if path[-1] == "r1" else 0 if path[-1] == "seconds" else 2
            cells.append(spread((at(result, path) for result in results), digits))
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {len(results)} |")
    return "\n".join(lines)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = study_parser(__doc__)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--rows", nargs="+", help="only these; all by default")
    parser.set_defaults(threads=torch.get_num_threads())
    args = parser.parse_args(argv)
    known = STUDIES[args.study][1]
    if unknown := [name for name in args.rows or () if name not in known]:
        parser.error(f"{args.study} has no row {unknown[0]!r}; {did_you_mean(unknown[0], known)}")
    return args


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    file = RESULTS / f"{args.study}.json"
    done = json.loads(file.read_text()) if file.exists() else {"rows": {}}
    done["machine"] = machine()
    data_name, rows = STUDIES[args.study]
    data = load_data(data_name)
    for seed in args.seeds:
        for name, (model, overrides) in rows.items():
            if args.rows and name not in args.rows:
                continue
            finished = done["rows"].setdefault(name, [])
            finished[:] = [result for result in finished if result["overrides"] == overrides
                           and result.setdefault("fingerprint", data.fingerprint) == data.fingerprint]
            if any(result["seed"] == seed for result in finished):
                continue
            result = train_row(data, model, overrides, seed) | {"fingerprint": data.fingerprint}
            print(f"{name}, seed {seed}: MRR {result['V1_to_V2']['mrr']:.4f} {result['V2_to_V1']['mrr']:.4f}, "
                  f"canonical {result['canonical_correlation']:.2f}, {result['seconds']:.0f} s", flush=True)
            finished.append(result)
            file.write_text(json.dumps(done, indent=1) + "\n")
    print(table({name: done["rows"][name] for name in rows if name in done["rows"]}))
    print(f"\n{done['machine']}, fingerprint {data.fingerprint[:12]}")


if __name__ == "__main__":
    main()
