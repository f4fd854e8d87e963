"""Do these two show the same? Cosines against networks that judge pairs, on MNIST twins and MNIST halves.

  python -m benchmarks.verification mnist_twins        # the same digit or not; 3 seeds
  python -m benchmarks.verification mnist_halves       # halves of the same picture or not
  python -m benchmarks.verification tables             # prints what is there
  python -m benchmarks.verification figure roc.png     # draws the curves of the first seed

Towers, optimiser and schedule are the same for all. The networks judge on top of one and the same trained base, which
stays frozen or is trained along at a tenth of the learning rate. Every finished row is a line in
benchmarks/results/verification.jsonl; started again, a study goes on where it stopped.
"""
from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from benchmarks.trainings import RESULTS, finished, keep, machine, spread, study_parser
from xmodal import (
    ByClass,
    Identity,
    InfoNCE,
    LearnedProjection,
    MatchOrNot,
    PairedData,
    Siamese,
    Start,
    TrainConfig,
    TwoTower,
    Verifier,
    fit,
    load_data,
)
from xmodal.checkpoint import RunFolder
from xmodal.evaluator import verify
from xmodal.metrics import Judged, roc
from xmodal.pictures import write_png
from xmodal.report import plot_roc
from xmodal.towers import mlp

FILE = RESULTS / "verification.jsonl"
OTHERS = 16  # that each row of a batch is judged with
#: Shares of false accepts at which curves are kept.
SHARES = np.geomspace(1e-4, 1, 81)
KINDS = ("random", "hard")
COLUMNS = {"AUC": ("auc", 4), "EER %": ("eer", 2), "accuracy %": ("accuracy", 2),
           "TAR at 0.1 %": ("tar@0.1%", 1), "TAR at 1 %": ("tar@1%", 1)}


class Study(NamedTuple):
    """A question and how it is learned: what matches, the base's objective and the judges', and whether both views go
    through one tower."""

    match: str
    base: Callable[[], nn.Module]
    judge: Callable[[], nn.Module]
    shared: bool
    config: TrainConfig


_CONFIG = TrainConfig(dim_latent=32, batch_size=500, learning_rate=1e-3, schedule="cosine", max_epochs=4, judge="loss",
                      patience=4, refinement_steps=0)
STUDIES = {
    "mnist_twins": Study("class", lambda: ByClass(Siamese()), lambda: ByClass(MatchOrNot()), True, _CONFIG),
    "mnist_halves": Study("pair", InfoNCE, MatchOrNot, False, _CONFIG),
}
JUDGE_EPOCHS = 3
#: Names of rows, what makes each, and by what it is judged; rows of one training follow each other.
ROWS = {
    "mnist_twins": {"raw pixels, cosine": ("raw", "cosine"), "two towers, cosine": ("unshared", "cosine"),
                    "siamese, cosine": ("cosine", "cosine"), "siamese, as long as with a network": ("longer", "cosine"),
                    "network on frozen siamese": ("frozen", "network"),
                    "network and siamese, end to end": ("tuned", "network"),
                    "the same siamese, cosine": ("tuned", "cosine")},
    "mnist_halves": {"two towers (InfoNCE), cosine": ("cosine", "cosine"),
                     "two towers, as long as with a network": ("longer", "cosine"),
                     "network on frozen towers": ("frozen", "network"),
                     "network and towers, end to end": ("tuned", "network"),
                     "the same towers, cosine": ("tuned", "cosine")},
}
DRAWN = ("raw pixels, cosine", "two towers, cosine", "siamese, cosine", "network on frozen siamese",
         "network and siamese, end to end")


def two_towers(data: PairedData, dim: int, shared: bool) -> TwoTower:
    first = mlp(data.view1_shape, [500, 300], dim)
    second = first if shared else mlp(data.view2_shape, [500, 300], dim)
    return TwoTower(first, second, LearnedProjection(dim, shared=shared))


class Seed:
    """One seed of a study: its base is trained when first asked for."""

    def __init__(self, name: str, data: PairedData, seed: int) -> None:
        self.study, self.data, self.seed = STUDIES[name], data, seed

    @cached_property
    def base(self) -> tuple[Any, dict[str, Any]]:
        return self.train(two_towers, self.study.config, self.study.base)

    def train(self, build: Callable[..., nn.Module], config: TrainConfig, objective: Callable[[], nn.Module],
              start: Start | None = None, shared: bool | None = None) -> tuple[Any, dict[str, Any]]:
        """A trained model and what there is to say about its training."""
        torch.manual_seed(self.seed)
        model: Any = build(self.data, config.dim_latent, self.study.shared if shared is None else shared)
        begun, cpu_begun = time.perf_counter(), time.process_time()
        result = fit(model, objective(), self.data, config, seed=self.seed, start=start)
        if result.signal is not None:
            raise SystemExit(128 + result.signal)
        return model, {"config": dataclasses.asdict(config), "seconds": time.perf_counter() - begun,
                       "cpu_seconds": time.process_time() - cpu_begun, "best_epoch": result.best_epoch,
                       "loss_va": min(line["loss_va"] for line in result.log),
                       "parameters": sum(p.numel() for p in model.parameters())}

    def measure(self, model: Any) -> dict[str, dict[str, Any]]:
        """Figures on the test pairs, and thinned curves, by the network, if there is one, and by cosine."""
        report, judged = verify(model, self.data, match=self.study.match)
        reports = {**({"network": report} if "network" in judged else {}), "cosine": report.get("cosine", report)}
        return {how: {**{kind: reports[how][kind] for kind in KINDS}, "curves": curves(judged[how])} for how in judged}

    # -- rows, each of them the results by how they were judged -------------------------------------------------------

    def raw(self) -> dict[str, dict[str, Any]]:
        return self.measure(Identity().fit_split(self.data.train))

    def unshared(self) -> dict[str, dict[str, Any]]:
        model, about = self.train(two_towers, self.study.config, self.study.base, shared=False)
        return {"cosine": self.measure(model)["cosine"] | about}

    def cosine(self) -> dict[str, dict[str, Any]]:
        model, about = self.base
        return {"cosine": self.measure(model)["cosine"] | about}

    def longer(self) -> dict[str, dict[str, Any]]:
        epochs = self.study.config.max_epochs + JUDGE_EPOCHS
        config = dataclasses.replace(self.study.config, max_epochs=epochs, patience=epochs)
        model, about = self.train(two_towers, config, self.study.base)
        return {"cosine": self.measure(model)["cosine"] | about}

    def frozen(self) -> dict[str, dict[str, Any]]:
        return {"network": self._judged(last=0)["network"]}

    def tuned(self) -> dict[str, dict[str, Any]]:
        return self._judged(rate=0.1)

    def _judged(self, **start: Any) -> dict[str, dict[str, Any]]:
        config = dataclasses.replace(self.study.config, max_epochs=JUDGE_EPOCHS, patience=JUDGE_EPOCHS)
        with tempfile.TemporaryDirectory() as folder:
            run = RunFolder(folder)
            run.write_json(RunFolder.CONFIG, {"config": {}, "seed": self.seed,
                                              "data": {"fingerprint": self.data.fingerprint}})
            run.save_weights(self.base[0].state_dict())
            model, about = self.train(_judge, config, self.study.judge, Start(folder, into="base", **start))
        found = self.measure(model)
        return {"network": found["network"] | about, "cosine": found["cosine"]}


def _judge(data: PairedData, dim: int, shared: bool) -> Verifier:
    return Verifier(two_towers(data, dim, shared), others=OTHERS)


def curves(judged: Judged) -> dict[str, list[float]]:
    """True accepts at :data:`SHARES` of false ones."""
    found = {}
    for kind in KINDS:
        curve = roc(judged.matching, getattr(judged, kind))
        at = np.searchsorted(curve.false_accepts, SHARES, side="right") - 1
        found[kind] = [round(float(each), 5) for each in curve.true_accepts[at]]
    return found


def table(name: str, kind: str) -> str:
    """Markdown: mean ± standard deviation over the seeds, against others of one kind."""
    lines = [f"| {kind} others | " + " | ".join(COLUMNS) + " | CPU s | seeds |", "|---" * (len(COLUMNS) + 3) + "|"]
    for row in ROWS[name]:
        mine = [one for one in finished(FILE) if (one["study"], one["row"]) == (name, row)]
        cells = [spread((one[kind][key] for one in mine), digits) for key, digits in COLUMNS.values()]
        lines.append(f"| {row} | " + " | ".join(cells)
                     + f" | {spread((one.get('cpu_seconds') for one in mine), 0)} | {len(mine)} |")
    return "\n".join(lines)


def figure(path: Path) -> None:
    """The curves of the first seed on twins, against others at random."""
    found = {one["row"]: one for one in finished(FILE) if (one["study"], one["seed"]) == ("mnist_twins", 0)}
    write_png(plot_roc({row: (SHARES, np.array(found[row]["curves"]["random"])) for row in DRAWN}), path)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = study_parser(__doc__)
    parser.add_argument("study", choices=(*STUDIES, "tables", "figure"))
    parser.add_argument("out", nargs="?", type=Path, default=Path("verification_roc.png"))
    return parser.parse_args(argv)


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    if args.study == "figure":
        figure(args.out)
        return
    if args.study in STUDIES:
        run(args.study, args.seeds)
    for name in STUDIES if args.study == "tables" else (args.study,):
        print(f"{name}\n" + "\n\n".join(table(name, kind) for kind in KINDS) + "\n")
    print(machine())


def run(name: str, seeds: list[int]) -> None:
    """Trains what isn't there yet."""
    data = load_data(name)
    for number in seeds:
        seed = Seed(name, data, number)
        for method in dict.fromkeys(method for method, _ in ROWS[name].values()):
            done = {one["row"] for one in finished(FILE) if (one["study"], one["seed"]) == (name, number)}
            rows = {row: how for row, (maker, how) in ROWS[name].items() if maker == method and row not in done}
            found = getattr(seed, method)() if rows else {}
            for row, how in rows.items():
                result = {"study": name, "row": row, "seed": number, "fingerprint": data.fingerprint,
                          "machine": machine(), **found[how]}
                keep(FILE, result)
                print(f"{row}, seed {number}: AUC {result['random']['auc']:.4f} at random, {result['hard']['auc']:.4f} "
                      f"hard, {result.get('cpu_seconds', 0):.0f} s", flush=True)


if __name__ == "__main__":
    main()
