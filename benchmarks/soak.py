"""A thousand short trainings on data and settings that break things: none may end in a number that is not finite.

  python -m benchmarks.soak                     # 1,000 trainings of 50 steps, some ten minutes of one core
  python -m benchmarks.soak --trainings 50 --seed 7
  python -m benchmarks.soak --only 123          # one of them, with what it is made of

Each training draws its views (duplicated, constant, tiny, huge, low-rank, heavy-tailed or equal columns, scales from
1e-12 to 1e12), towers, head, objective, ridges, alpha, precision, batch size from 2 on, fewer pairs than dimensions,
and learning rates up to 10. It is fine when everything in it is finite to the end: losses, weights, statistics,
embeddings, metrics. It is fine as well when it stops with a diagnosis that is right, which is checked on the model and
the batch that it stopped with. Counts go to benchmarks/results/soak.json.
"""
from __future__ import annotations

import argparse
import collections
import json
import math
import random
import re
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xmodal import trainer
from xmodal.config import TrainConfig
from xmodal.data import Batch, PairedData, PairSplit
from xmodal.diagnosis import diagnose
from xmodal.errors import NumericalError
from xmodal.evaluator import embed, evaluate
from xmodal.layers import CCALayer, CCAReadout, LearnedProjection, LengthNorm
from xmodal.networks import CorrNet, TwoTower, evaluating
from xmodal.objectives import CorrNetObjective, InfoNCE, PairwiseRanking, TraceNorm, WeightedSum
from xmodal.towers import mlp

RESULTS = Path(__file__).parent / "results" / "soak.json"
STEPS = 50

# -- what a training is made of ----------------------------------------------------------------------------------------


def difficulties(draw: random.Random, generator: torch.Generator) -> list[tuple[str, Callable[[Tensor], Tensor]]]:
    """Up to three ways to spoil a view (n, d)."""
    scale = 10.0 ** draw.uniform(-12, 12)
    known: dict[str, Callable[[Tensor], Tensor]] = {
        f"scale {scale:.0e}": lambda x: x * scale,
        "duplicated columns": lambda x: x[:, torch.randint(x.shape[1], (x.shape[1],), generator=generator)],
        "constant columns": lambda x: torch.where(torch.arange(x.shape[1]) % 2 == 0, 3.25, x),
        "all constant": lambda x: torch.full_like(x, 0.1),
        "all zero": torch.zeros_like,
        "rank 1": lambda x: x[:, :1] * torch.linspace(-1, 1, x.shape[1]),
        "heavy tails": lambda x: x.pow(7),
        "large mean": lambda x: x + 1e6,
        "columns of all scales": lambda x: x * torch.logspace(-10, 10, x.shape[1]),
        "equal rows": lambda x: x[:1].expand_as(x).clone(),
        "few distinct rows": lambda x: x[torch.randint(2, (len(x),), generator=generator)],
        "zeros and ones": lambda x: (x > 0).float(),
        "one outlier": lambda x: x.index_fill(0, torch.tensor([0]), 1e15),
    }
    return [(name, known[name]) for name in draw.sample(sorted(known), draw.choice([0, 1, 1, 2, 3]))]


def views(draw: random.Random, n: int, d1: int, d2: int, seed: int) -> tuple[Tensor, Tensor, str]:
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(n, min(d1, d2), generator=generator)
    x, y = (shared @ torch.randn(shared.shape[1], d, generator=generator) + torch.randn(n, d, generator=generator)
            for d in (d1, d2))
    told = []
    for number in (1, 2):
        for name, spoil in difficulties(draw, generator):
            told.append(f"view{number} {name}")
            if number == 1:
                x = spoil(x)
            else:
                y = spoil(y)
    if draw.random() < 0.05:
        y, told = x[:, torch.arange(d2) % d1].clone(), [*told, "view2 is view1"]
    largest = torch.finfo(torch.float32).max
    x, y = (z.nan_to_num().clamp(-largest, largest) for z in (x, y))  # data that are not finite are never let in
    return x, y, ", ".join(told) or "plain"


def tower(draw: random.Random, d: int, dim: int) -> nn.Module:
    hidden: list[int] = draw.choice([[], [8], [32, 16]])
    made = mlp((d,), hidden, dim, dropout=draw.choice([0.0, 0.5]))
    if draw.random() < 0.2:
        made.append(draw.choice([nn.ReLU(), nn.Tanh(), nn.BatchNorm1d(dim)]))
    return made


def training(number: int, seed: int) -> dict[str, Any]:
    """Everything that training ``number`` needs, drawn from the seed and the number alone."""
    draw = random.Random(f"{seed} {number}")
    torch.manual_seed(draw.getrandbits(40))
    dim, d1, d2 = draw.choice([1, 2, 5, 20, 64]), draw.choice([1, 3, 12, 70]), draw.choice([1, 4, 9, 50])
    batch_size = draw.choice([2, 2, 3, 5, 16, 50, 200])
    n = max(2, draw.choice([batch_size + 1, 3 * batch_size, 10 * batch_size, 2, dim]))
    x, y, told = views(draw, n + 20, d1, d2, draw.getrandbits(40))
    pairs = None if draw.random() < 0.7 else torch.stack([torch.randint(n, (n,)), torch.arange(n)], dim=1)
    data = PairedData("soak", PairSplit("train", x[:n], y[:n], pairs), PairSplit("valid", x[n:n + 10], y[n:n + 10]),
                      PairSplit("test", x[n + 10:], y[n + 10:]))
    ridges = {"r1": draw.choice([0.0, 1e-8, 1e-3, 1.0]), "r2": draw.choice([0.0, 1e-8, 1e-3, 1.0])}
    alpha = draw.choice([1.0, 1.0, 0.1, "auto"])
    kind = draw.choice(["CCALayer", "CCALayer", "CCALayer", "CCAReadout", "LearnedProjection", "CorrNet"])
    ranking = [lambda: PairwiseRanking(margin=draw.choice([0.1, 1.0]), symmetric=draw.random() < 0.5,
                                       negatives=draw.choice(["mean", "sum", "hardest"])),
               lambda: InfoNCE(temperature=draw.choice([0.01, 0.07, 1.0]))]
    tracing = [lambda: TraceNorm(draw.choice([0.0, 1e-3])),
               lambda: WeightedSum([(0.5, TraceNorm()), (0.5, PairwiseRanking())])]
    model: nn.Module
    if kind == "CorrNet":
        model = CorrNet(tower(draw, d1, dim), tower(draw, d2, dim), mlp((dim,), [], d1), mlp((dim,), [], d2))
        objective: nn.Module = CorrNetObjective(correlation=draw.choice([0.0, 0.02, 1.0]))
    else:
        heads: dict[str, Callable[[], Any]] = {"CCALayer": lambda: CCALayer(dim, alpha=alpha, **ridges),
                                               "CCAReadout": lambda: CCAReadout(dim, power=draw.choice([0.0, 1.0, 4.0]),
                                                                                **ridges),
                                               "LearnedProjection": lambda: LearnedProjection(dim)}
        norm = LengthNorm() if draw.random() < 0.3 else None
        model = TwoTower(tower(draw, d1, dim), tower(draw, d2, dim), heads[kind](), norm)
        objective = draw.choice(ranking + (2 * tracing if kind == "CCALayer" else []))()
    per_epoch = -(-n // batch_size)
    config = TrainConfig(dim_latent=dim, batch_size=batch_size, max_epochs=-(-STEPS // per_epoch), patience=1000,
                         learning_rate=10.0 ** draw.uniform(-4, 1), optimizer=draw.choice(["adam", "adam", "rmsprop"]),
                         clip_norm=draw.choice([None, None, 1.0]), l2=draw.choice([0.0, 1e-3]),
                         precision=draw.choice(["float32", "bf16"]))
    told += (f"; {n} pairs {d1} + {d2}, dim {dim}, batch {batch_size}, {kind} {ridges} alpha {alpha}, "
             f"{type(objective).__name__}, lr {config.learning_rate:.2g}, {config.optimizer}, {config.precision}")
    return {"model": model, "objective": objective, "data": data, "config": config, "told": told, "kind": kind}


# -- is a diagnosis right? ---------------------------------------------------------------------------------------------


def wrong_claims(model: nn.Module, batch: Batch, text: str) -> list[str]:
    """What a diagnosis says that isn't so, or leaves unsaid: found by other means than the diagnosis uses."""
    wrong = []
    broken = sum(not math.isfinite(float(p.detach().double().abs().sum())) for p in model.parameters())
    said = re.search(r"(\d+) parameters are not finite", text)
    if (int(said[1]) if said else 0) != broken:
        wrong.append(f"{broken} parameters are not finite")
    if "input view" in text:
        wrong.append("inputs are finite")
    outputs = {}
    with evaluating(model):
        if isinstance(model, TwoTower):
            outputs = {"tower output view1": model.tower1(batch.view1), "tower output view2": model.tower2(batch.view2)}
    for name, z in outputs.items():
        bad = sum(not all(map(math.isfinite, row)) for row in z.tolist())
        said = re.search(rf"{name} is not finite in (\d+) of", text)
        if (int(said[1]) if said else 0) != bad:
            wrong.append(f"{name}: {bad} rows are not finite")
    return wrong


def outcome(number: int, seed: int) -> tuple[str, str, str]:
    """"finite", "stopped" or "WRONG", the kind of model, and what there is to say."""
    made = training(number, seed)
    model, data, wrong = made["model"], made["data"], []

    def checked(model: nn.Module, batch: Batch) -> str:
        text = diagnose(model, batch)
        wrong.extend(wrong_claims(model, batch, text))
        return text

    trainer.loop.diagnose = checked
    try:
        result = trainer.fit(model, made["objective"], data, made["config"], seed=number)
    except NumericalError as error:
        text = str(error)
        where = (r"training (stopped in epoch \d+, batch \d+|stopped after epoch \d+|"
                 r"stopped before the first step|can't start): ")
        if not re.match(where, text):
            wrong.append("does not say where")
        return ("WRONG: " + "; ".join(wrong) if wrong else "stopped"), made["kind"], f"{made['told']} -> {text}"
    except Exception as error:
        return f"WRONG: {type(error).__name__}: {error}", made["kind"], made["told"]
    values = [*model.state_dict().values(), *made["objective"].state_dict().values(), *embed(model, data.test)]
    numbers = [value for line in result.log for value in line.values() if isinstance(value, float)]
    metrics = evaluate(model, data)
    numbers += [value for direction in ("V1_to_V2", "V2_to_V1") for value in metrics[direction].values()
                if isinstance(value, float)]
    if not all(bool(torch.isfinite(value).all()) for value in values) or not all(map(math.isfinite, numbers)):
        return "WRONG: not finite, and nobody said so", made["kind"], made["told"]
    return "finite", made["kind"], made["told"]


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainings", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="this training alone")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of few pairs for a head: that is what this is about
    if options.only is not None:
        print(*outcome(options.only, options.seed), sep="\n")
        return 0
    started = time.process_time()
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for number in range(options.trainings):
        what, kind, told = outcome(number, options.seed)
        counts[kind][what.partition(":")[0]] += 1
        if what.startswith("WRONG"):
            print(f"{number}: {what}\n    {told}", flush=True)
    total = sum(counts.values(), collections.Counter())
    for kind, counted in sorted(counts.items()):
        print(f"{kind:18} {dict(counted)}")
    print(f"{options.trainings} trainings of {STEPS} steps: {dict(total)}")
    if options.trainings >= 1000:
        RESULTS.write_text(json.dumps({"trainings": options.trainings, "steps": STEPS, "seed": options.seed,
                                       "torch": torch.__version__, "cpu_seconds": round(time.process_time() - started),
                                       "outcomes": total, "by_kind": counts}, indent=1, sort_keys=True) + "\n")
    return 1 if total["WRONG"] else 0


if __name__ == "__main__":
    sys.exit(main())
