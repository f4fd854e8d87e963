"""What autoencoders are good for: towers that start from items without partners, similar pictures, semantic hashing.

  python -m benchmarks.autoencoders pretraining   # MNIST halves, 10 % and 1 % of the pairs: does it help?
  python -m benchmarks.autoencoders similar       # Fashion-MNIST: pictures that find others of their class by codes
  python -m benchmarks.autoencoders hashing       # the same by 20 to 128 bits, and by as many real values
  python -m benchmarks.autoencoders tables        # prints what is there

Every finished training is a line in benchmarks/results/autoencoders.jsonl; started again, a study goes on where it
stopped. Needs mnist_halves and fashion_twins (prepare_data.py).
"""
from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from benchmarks.trainings import RESULTS, at, finished, keep, machine, spread, study_parser, train
from xmodal import (
    Autoencoders,
    EvidenceBound,
    InfoNCE,
    LearnedProjection,
    PairedData,
    PredictiveSparse,
    Reconstruction,
    TrainConfig,
    TwoTower,
    VariationalAutoencoder,
    embed,
    evaluate,
    load_data,
)
from xmodal.augment import GaussianNoise, Masking
from xmodal.layers.binary import Bits
from xmodal.metrics.within import fit_reductions, within_codes, within_metrics
from xmodal.search import Gallery
from xmodal.search.codes import make_codes
from xmodal.towers import Dictionary, Gain, conv_autoencoder, mlp, tied_decoder

FILE = RESULTS / "autoencoders.jsonl"
HIDDEN, HIDDEN_SIMILAR = [500, 300], [512, 256]
#: Towers that are trained with pairs later have it; autoencoders alone restore far better without.
BATCH_NORM = {tuple(HIDDEN): True, tuple(HIDDEN_SIMILAR): False}
VALID = 1000  # pairs: those who have few pairs have few to validate on


class Part(NamedTuple):
    """An autoencoder of items of one shape: what becomes the tower, what is behind it while it restores, and what
    changes the items that it sees."""

    tower: nn.Module
    behind: nn.Module
    decoder: nn.Module
    corruption: nn.Module | None = None


class Kind(NamedTuple):
    """How an autoencoder is made for a shape, hidden widths and a code, and what trains it."""

    part: Callable[[tuple[int, ...], list[int], int], Part]
    objective: Callable[[], nn.Module]


def _tower(shape: tuple[int, ...], hidden: list[int], dim: int) -> nn.Sequential:
    return mlp(shape, hidden, dim, batch_norm=BATCH_NORM[tuple(hidden)], nonlinearity=nn.ReLU)


def _decoder(dim: int, hidden: list[int], shape: tuple[int, ...]) -> nn.Sequential:
    return mlp((dim,), hidden[::-1], shape[0], batch_norm=False, nonlinearity=nn.ReLU)


def _plain(corruption: Callable[[], nn.Module] | None = None) -> Callable[..., Part]:
    def part(shape: tuple[int, ...], hidden: list[int], dim: int) -> Part:
        return Part(_tower(shape, hidden, dim), nn.Identity(), _decoder(dim, hidden, shape),
                    None if corruption is None else corruption())
    return part


def _tied(shape: tuple[int, ...], hidden: list[int], dim: int) -> Part:
    """With codes from 0 to 1, as contraction and sparsity need them: a linear code would only be made smaller."""
    tower = _tower(shape, hidden, dim)
    return Part(tower, nn.Sigmoid(), tied_decoder(tower, nn.ReLU))


def _variational(shape: tuple[int, ...], hidden: list[int], dim: int) -> Part:
    return Part(_tower(shape, hidden, 2 * dim), nn.Identity(), _decoder(dim, hidden, shape))


def _predictive(shape: tuple[int, ...], hidden: list[int], dim: int) -> Part:
    return Part(nn.Sequential(mlp(shape, [], dim), nn.Tanh(), Gain(dim)), nn.Identity(), Dictionary(dim, shape))


def _convolutional(shape: tuple[int, ...], hidden: list[int], dim: int) -> Part:
    encoder, decoder = conv_autoencoder((1, 28, 28), [16, 32], dim)
    return Part(nn.Sequential(nn.Unflatten(1, (1, 28, 28)), encoder), nn.Identity(),
                nn.Sequential(decoder, nn.Flatten()))


KINDS = {
    "plain": Kind(_plain(), Reconstruction),
    "tied weights": Kind(_tied, Reconstruction),
    "denoising, 30 % masked": Kind(_plain(lambda: Masking(0.3)), Reconstruction),
    "denoising, Gaussian 0.3": Kind(_plain(lambda: GaussianNoise(0.3)), Reconstruction),
    "contractive": Kind(_tied, lambda: Reconstruction(contractive=1e-3)),
    "sparse": Kind(_tied, lambda: Reconstruction(sparse=1e-3, target=0.1)),
    "variational": Kind(_variational, lambda: EvidenceBound(variance=0.05)),
    "predictive sparse": Kind(_predictive, lambda: PredictiveSparse(l1=0.2)),
    "convolutional, switches": Kind(_convolutional, Reconstruction),
}


def assembled(kind: Kind, parts: tuple[Part, Part], dim: int) -> nn.Module:
    """The model of two views, whose parts may be the same."""
    one, two = parts
    if kind.part is _variational:
        return VariationalAutoencoder(dim, one.tower, two.tower, one.decoder, two.decoder, "separate")
    towers = [nn.Sequential(part.tower, part.behind) for part in parts]
    shared = one is two
    return Autoencoders(towers[0], towers[0] if shared else towers[1], one.decoder, two.decoder, one.corruption,
                        two.corruption)


# -- towers that start from items without partners ---------------------------------------------------------------

PAIRS = {"10 % of the pairs": 5000, "1 % of the pairs": 500}
DIM = 50
PRETRAINING = TrainConfig(dim_latent=DIM, batch_size=200, learning_rate=2e-3, schedule="cosine", max_epochs=6,
                          patience=6, keep="last", refinement_steps=0)
TRAINING = dataclasses.replace(PRETRAINING, batch_size=250, learning_rate=1e-3, max_epochs=30, patience=30,
                               keep="best")
PRETRAINED = ("from scratch", "plain", "denoising, 30 % masked", "denoising, Gaussian 0.3", "tied weights",
              "contractive")


def pretraining(seeds: Iterable[int], only: list[str] | None) -> None:
    """Each kind once on all items of the training split, then InfoNCE on few of its pairs, from those towers on."""
    data = with_few(load_data("mnist_halves"))
    for seed in seeds:
        for name in PRETRAINED:
            left = [(few, n) for few, n in PAIRS.items() if not done("pretraining", name, seed, few)]
            if not left or (only and name not in only):
                continue
            towers, seconds = _pretrained(name, data, seed)
            for few, n in left:
                config = TRAINING if n > 1000 else dataclasses.replace(TRAINING, batch_size=100, max_epochs=60,
                                                                       patience=60)
                network, about = train(with_few(data, n, seed), config, partial(_starting_from, towers), InfoNCE, seed)
                record("pretraining", name, seed, {**evaluate(network, data), **about, "pairs": few,
                                                   "pretraining_seconds": seconds, "fingerprint": data.fingerprint})


def _pretrained(name: str, data: PairedData, seed: int) -> tuple[list[nn.Module], float]:
    """Towers of both views after training without pairs, or fresh ones; and the CPU seconds that it took."""
    if name == "from scratch":
        torch.manual_seed(seed)
        return [_tower(shape, HIDDEN, DIM) for shape in (data.view1_shape, data.view2_shape)], 0.0
    kind, towers = KINDS[name], []

    def build_model(*shapes: tuple[int, ...]) -> nn.Module:
        parts = [kind.part(shape, HIDDEN, DIM) for shape in shapes]
        towers.extend(part.tower for part in parts)
        return assembled(kind, (parts[0], parts[1]), DIM)

    _, about = train(data, PRETRAINING, build_model, kind.objective, seed)
    return towers, about["cpu_seconds"]


def _starting_from(towers: list[nn.Module], *shapes: tuple[int, ...]) -> TwoTower:
    """Copies of towers below a fresh head."""
    fresh = [_tower(shape, HIDDEN, DIM) for shape in shapes]
    for new, old in zip(fresh, towers, strict=True):
        new.load_state_dict(old.state_dict())
    return TwoTower(fresh[0], fresh[1], LearnedProjection(DIM))


def with_few(data: PairedData, n: int | None = None, seed: int = 0) -> PairedData:
    """With n training pairs drawn at random, and few to validate on."""
    rows = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:n]
    return dataclasses.replace(data, train=data.train if n is None else data.train.select(rows),
                               valid=data.valid.take(VALID))


# -- similar pictures, and bits ----------------------------------------------------------------------------------

CODE = 64
SIMILAR = TrainConfig(dim_latent=CODE, batch_size=100, learning_rate=2e-3, schedule="cosine", max_epochs=3, patience=3,
                      keep="last", refinement_steps=0)
SIZES = (20, 32, 64, 128)


def similar(seeds: Iterable[int], only: list[str] | None) -> None:
    """One autoencoder for the pictures of both views; every test picture looks for others of its class."""
    data = with_few(load_data("fashion_twins"))
    if not done("similar", "raw pictures", 0):
        _baselines(data)
    for seed in seeds:
        for name, kind in KINDS.items():
            if not done("similar", name, seed) and not (only and name not in only):
                _one_similar("similar", name, kind, data, CODE, seed)


def _one_similar(study: str, name: str, kind: Kind, data: PairedData, dim: int, seed: int) -> None:
    def build_model(shape: tuple[int, ...], _: tuple[int, ...]) -> nn.Module:
        part = kind.part(shape, HIDDEN_SIMILAR, dim)
        return assembled(kind, (part, part), dim)

    network, about = train(data, SIMILAR, build_model, kind.objective, seed)
    items = data.test.view1
    assert isinstance(items, Tensor)
    codes = embed(network, data.test)[0]
    with torch.no_grad():
        restored = network.eval().decode(network.code(items[:1000], items[:1000]))[0]  # without switches
    facts = {"dim": dim, "fingerprint": data.fingerprint}
    record(study, name, seed, {**about, **facts, "within": within_metrics(codes, data.test.labels),
                               "squared_error": float((restored - items[:1000]).square().mean()),
                               **_searched(codes, data.test.labels)})
    if study == "hashing" and name == "real values":
        known = normalize(embed(network, data.train.take(20_000))[0])
        for how, row in (("sign", "signs of the real values"), ("rotated", "rotated, then signs (ITQ)")):
            packed = make_codes(known, dim, how).of_items(normalize(codes))
            record(study, row, seed, {**facts, "within": within_codes(packed, data.test.labels)})


def _searched(codes: Tensor, labels: Tensor | None) -> dict[str, Any]:
    """Of whole bytes of bits: the time of a search among them by a gallery of bits, and the precision of its first ten
    without the query itself."""
    if not bool((codes.abs() == 1).all()) or codes.shape[1] % 8:
        return {}
    gallery = Gallery.build(codes, kind="codes", bits=codes.shape[1], codes="sign", recall=0.5)
    started = time.process_time()
    found = gallery.query(codes[:1000], 11)
    seconds = time.process_time() - started
    assert labels is not None
    rows = torch.stack([row[row != query][:10] for query, row in enumerate(torch.as_tensor(found.rows))])
    return {"gallery_seconds": seconds, "gallery_p10": float((labels[rows] == labels[:1000, None]).float().mean())}


def _baselines(data: PairedData) -> None:
    train_items, items = data.train.view1, data.test.view1
    assert isinstance(train_items, Tensor) and isinstance(items, Tensor)
    for dim in SIZES:
        mean, pca, lsa = fit_reductions(train_items.double().split(5000), dim)
        rows: dict[str, Tensor] = {"PCA": (items.double() - mean) @ pca, "LSA": items.double() @ lsa}
        restored = {"PCA": rows["PCA"] @ pca.T + mean, "LSA": rows["LSA"] @ lsa.T, "raw pictures": items.double()}
        for name, codes in (rows | ({"raw pictures": items} if dim == CODE else {})).items():
            found = {"within": within_metrics(codes, data.test.labels), "dim": codes.shape[1], "seed": 0,
                     "machine": machine(), "fingerprint": data.fingerprint,
                     "squared_error": float((restored[name] - items)[:1000].square().mean())}
            record("similar" if dim == CODE else "hashing", name, 0, found)
            if dim == CODE and name != "raw pictures":
                record("hashing", name, 0, found)


def hashing(seeds: Iterable[int], only: list[str] | None) -> None:
    """Codes of bits and codes of as many real values, by the same autoencoder but for its last step."""
    data = with_few(load_data("fashion_twins"))
    if not done("similar", "raw pictures", 0):
        _baselines(data)

    def bits(shape: tuple[int, ...], hidden: list[int], dim: int) -> Part:
        even = nn.Sequential(nn.BatchNorm1d(dim, affine=False), Bits(0.5))  # a bit is set for half of the pictures
        return Part(_tower(shape, hidden, dim), even, _decoder(dim, hidden, shape))

    kinds = {"real values": KINDS["plain"], "bits": Kind(bits, Reconstruction)}
    for seed in seeds:
        for dim in SIZES:
            for name, kind in kinds.items():
                if not done("hashing", name, seed, dim=dim) and not (only and name not in only):
                    _one_similar("hashing", name, kind, data, dim, seed)


# -- keeping and showing -----------------------------------------------------------------------------------------

def done(study: str, row: str, seed: int, pairs: str | None = None, dim: int | None = None) -> bool:
    return any((one["study"], one["row"], one["seed"]) == (study, row, seed) and pairs in (None, one.get("pairs"))
               and dim in (None, one.get("dim")) for one in finished(FILE))


def record(study: str, row: str, seed: int, result: Mapping[str, Any]) -> None:
    keep(FILE, {**result, "study": study, "row": row, "seed": seed})
    value = result["V1_to_V2"]["mrr"] if "V1_to_V2" in result else result["within"]["map"]
    print(f"{study}, {row}, {result.get('pairs', result.get('dim'))}, seed {seed}: {value:.4f}, "
          f"{result.get('cpu_seconds', 0):.0f} s", flush=True)


def tables() -> str:
    results = finished(FILE)

    def rows(study: str, names: Iterable[str], groups: Iterable[Any], key: str, path: tuple[str, ...]) -> list[str]:
        lines = []
        for name in names:
            cells = [spread((at(one, path) for one in results if (one["study"], one["row"], one.get(key)) ==
                             (study, name, group)), 3) for group in groups]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        return lines

    text = ["pretraining, MRR of 10,000 test pairs: V1_to_V2, then V2_to_V1",
            "| | " + " | ".join(f"{few}{way}" for way in ("", ", back") for few in PAIRS) + " |", "|---" * 5 + "|"]
    ways = [rows("pretraining", PRETRAINED, PAIRS, "pairs", (way, "mrr")) for way in ("V1_to_V2", "V2_to_V1")]
    text += [one + two.split("|", 2)[2] for one, two in zip(*ways, strict=True)]
    text += ["", "similar, 64 values", "| | mAP | P@10 | R-precision | squared error | CPU s |", "|---" * 6 + "|"]
    for name in ("raw pictures", "PCA", "LSA", *KINDS):
        mine = [one for one in results if (one["study"], one["row"]) == ("similar", name)]
        text.append(f"| {name} | " + " | ".join(spread((at(one, path) for one in mine), digits) for path, digits in (
            (("within", "map"), 3), (("within", "p10"), 3), (("within", "r_precision"), 3), (("squared_error",), 4),
            (("cpu_seconds",), 0))) + " |")
    text += ["", "hashing, mAP", "| | " + " | ".join(map(str, SIZES)) + " |", "|---" * (1 + len(SIZES)) + "|"]
    return "\n".join(text + rows("hashing", ("PCA", "LSA", "real values", "signs of the real values",
                                         "rotated, then signs (ITQ)", "bits"), SIZES, "dim", ("within", "map")))


STUDIES = {"pretraining": pretraining, "similar": similar, "hashing": hashing}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = study_parser(__doc__)
    parser.add_argument("study", choices=(*STUDIES, "tables"))
    parser.add_argument("--rows", nargs="+", help="only these; all by default")
    return parser.parse_args(argv)


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    if args.study != "tables":
        STUDIES[args.study](args.seeds, args.rows)
    print(tables())
    print(machine())


if __name__ == "__main__":
    main()
