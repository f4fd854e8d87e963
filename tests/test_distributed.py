"""Several processes train as one does: losses, gradients, weights, statistics and metrics are those of one process."""
from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import command, finish, start, together
from torch import Tensor, nn

from xmodal import distributed
from xmodal.config import TrainConfig
from xmodal.covariance import PairCovariance
from xmodal.data import PairedData, PairSplit, files, pair_batches, read_h5, view_batches, write_h5
from xmodal.errors import DataError, ProcessError
from xmodal.evaluator import embed, evaluate
from xmodal.layers import CCALayer, CCAReadout, LearnedProjection
from xmodal.layers.batch_norm import SharedBatchNorm, share_batch_norms
from xmodal.networks import Autoencoders, CorrNet, Model, TwoTower
from xmodal.objectives import CorrNetObjective, InfoNCE, PairwiseRanking, Reconstruction, TraceNorm, WeightedSum
from xmodal.towers import mlp, tied_decoder
from xmodal.trainer import fit

pytestmark = [pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX processes"),
              pytest.mark.filterwarnings("ignore:CCALayer")]

DIM = 5
MODEL = str(Path(__file__).parent.parent / "models" / "digits_ccal_cont.py")


class Widened(nn.Module):
    """A tower in float64, so that a difference is a mistake and not rounding."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower.double()

    def forward(self, items: Tensor) -> Tensor:
        return self.tower(items.double())


def two_towers(head: nn.Module) -> TwoTower:
    return TwoTower(Widened(mlp((12,), [16], DIM)), Widened(mlp((9,), [16], DIM)), head.double())


def linear_towers(head: nn.Module) -> TwoTower:
    return TwoTower(Widened(mlp((12,), [], DIM)), Widened(mlp((9,), [], DIM)), head.double())


def corr_net() -> CorrNet:
    encoder1, encoder2 = mlp((12,), [16], DIM), mlp((9,), [16], DIM)
    return CorrNet(Widened(encoder1), Widened(encoder2), tied_decoder(encoder1, nn.ReLU).double(),
                   tied_decoder(encoder2, nn.ReLU).double())


def autoencoders(towers: tuple[nn.Module, nn.Module]) -> Autoencoders:
    return Autoencoders(*(Widened(tower) for tower in towers), nn.Linear(DIM, 12).double(), nn.Linear(DIM, 9).double())


#: Every head, and every objective that looks at more than one row.
KINDS: dict[str, tuple[Callable[[], Model], Callable[[], nn.Module]]] = {
    "cca, trace norm": (lambda: two_towers(CCALayer(DIM)), TraceNorm),
    "cca by running statistics, ranking": (lambda: two_towers(CCALayer(DIM, alpha="auto")), PairwiseRanking),
    "cca, two objectives": (lambda: two_towers(CCALayer(DIM, alpha=0.3)),
                            lambda: WeightedSum([(0.5, TraceNorm(1e-3)), (0.5, PairwiseRanking(symmetric=True))])),
    "readout, learned temperature": (lambda: two_towers(CCAReadout(DIM)), InfoNCE),
    "learned projection, hardest negatives": (lambda: two_towers(LearnedProjection(DIM, alpha=0.5)),
                                              lambda: PairwiseRanking(negatives="hardest")),
    "CorrNet": (corr_net, lambda: CorrNetObjective(correlation=0.1)),
    "CorrNet, a term left out": (corr_net, lambda: CorrNetObjective(both=0.0, from_view2=0.0)),
    "autoencoders, sparse": (lambda: autoencoders((mlp((12,), [16], DIM), mlp((9,), [16], DIM))),
                             lambda: Reconstruction(l1=0.01)),
}
#: For batches so small that a process may have none of their rows; without batch norm, which two rows send anywhere.
OF_FEW_ROWS: dict[str, tuple[Callable[[], Model], Callable[[], nn.Module]]] = {
    "few rows, cca": (lambda: linear_towers(CCALayer(DIM, 0.1, 0.1, alpha=0.2)), TraceNorm),
    "few rows, readout": (lambda: linear_towers(CCAReadout(DIM, 0.1, 0.1)), InfoNCE),
    "few rows, learned projection": (lambda: linear_towers(LearnedProjection(DIM)), PairwiseRanking),
}


def pairs(n_train: int = 203) -> PairedData:
    """Training pairs in batches that don't divide evenly; of many, two in three share their view-1 item with others."""
    generator = torch.Generator().manual_seed(4)
    splits = []
    for name, n in (("train", n_train), ("valid", 47), ("test", 31)):
        factors = torch.randn(n, 6, generator=generator)
        x, y = factors.repeat(1, 2), factors @ torch.randn(6, 9, generator=torch.Generator().manual_seed(1))
        x, y = (z + 0.3 * torch.randn(z.shape, generator=generator) for z in (x, y))
        table = torch.stack([torch.arange(n) // 3 * 2 if n > 20 else torch.arange(n), torch.arange(n)], dim=1)
        splits.append(PairSplit(name, x, y, table))
    return PairedData("shared items", *splits).with_fingerprint()


def gradients(kind: str) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of the first batch, each process having its part of it."""
    model, objective = made(kind)
    if distributed.size() > 1:
        share_batch_norms(model)
    model.train()
    batch = next(pair_batches(pairs().train, 50, seed=3, part=(distributed.rank(), distributed.size())))
    loss = objective(model(batch.view1, batch.view2), *distributed.gather_rows(batch.pairs))
    loss.backward()
    named = {**dict(model.named_parameters()), **{f"objective.{k}": v for k, v in objective.named_parameters()}}
    return loss.detach(), {name: distributed.add_up(p.grad) / distributed.size() for name, p in named.items()
                           if p.grad is not None}


def made(kind: str) -> tuple[Model, nn.Module]:
    torch.manual_seed(0)
    make_model, make_objective = {**KINDS, **OF_FEW_ROWS}[kind]
    return make_model(), make_objective().double()


def whole_training(kind: str, data: PairedData, batch_size: int = 50) -> dict[str, Any]:
    model, objective = made(kind)
    config = TrainConfig(dim_latent=DIM, batch_size=batch_size, learning_rate=5e-3, max_epochs=3, clip_norm=5.0)
    result = fit(model, objective, data, config, seed=3)
    report = evaluate(model, data)
    return {"weights": dict(model.state_dict()), "objective": dict(objective.state_dict()),
            "log": [[line[key] for key in ("loss_tr", "loss_va", "mrr_tr", "mrr_va", "refit_pairs")]
                    for line in result.log],
            "metrics": [report[d][key] for d in ("V1_to_V2", "V2_to_V1") for key in ("mrr", "mean_rank", "r10")]
            + [report["canonical_correlation"]], "embedded": embed(model, data.test)}


def everything(folder: str) -> None:
    """All that is compared with one process, kept by the first one."""
    with distributed.joined():
        streamed = read_h5(Path(folder, "pairs.h5"), stream=True)
        found = {"gradients": {kind: gradients(kind) for kind in KINDS},
                 "trained": {kind: whole_training(kind, pairs()) for kind in KINDS},
                 "tiny": {kind: whole_training(kind, pairs(7), batch_size=2) for kind in OF_FEW_ROWS},
                 "streamed": whole_training("cca, trace norm", streamed)}
        if distributed.rank() == 0:
            torch.save(found, Path(folder, f"{distributed.size()}.pt"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """What one, two and three processes find."""
    folder = tmp_path_factory.mktemp("distributed")
    write_h5(pairs(), folder / "pairs.h5")
    for count in (1, 2, 3):
        together(everything, count, str(folder))
    return {count: torch.load(folder / f"{count}.pt") for count in (1, 2, 3)}


def assert_same(a: Any, b: Any, path: str = "") -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (one, other) in enumerate(zip(a, b, strict=True)):
            assert_same(one, other, f"{path}/{i}")
    else:
        one, other = torch.as_tensor(a).double(), torch.as_tensor(b).double()
        assert torch.allclose(one, other, rtol=1e-7, atol=1e-7), f"{path}: off by {(one - other).abs().max():.2g}"


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("what", ["gradients", "trained", "tiny", "streamed"])
def test_several_processes_find_what_one_finds(runs, count, what):
    assert_same(runs[1][what], runs[count][what])


def contractive_step(folder: str) -> None:
    with distributed.joined():
        torch.manual_seed(0)
        model = autoencoders((mlp((12,), [16], DIM), mlp((9,), [16], DIM)))
        share_batch_norms(model)
        batch = next(pair_batches(pairs().train, 50, seed=3, part=(distributed.rank(), distributed.size())))
        loss = Reconstruction(contractive=0.1)(model.train()(batch.view1, batch.view2))
        loss.backward()
        if distributed.rank() == 0:
            torch.save([p.grad for p in model.parameters()], Path(folder, "gradients.pt"))


def test_deep_contractive_autoencoders_take_a_step_together(tmp_path):
    """Directions differ between processes, so that no more can be asked than finite gradients."""
    together(contractive_step, 2, str(tmp_path))
    assert all(bool(torch.isfinite(gradient).all()) for gradient in torch.load(tmp_path / "gradients.pt"))


def test_the_comparison_can_fail(runs):
    trained = runs[1]["trained"]
    with pytest.raises(AssertionError):
        assert_same(trained["cca, trace norm"]["weights"], trained["cca by running statistics, ranking"]["weights"])
    first, last = (trained["CorrNet"]["log"][i][0] for i in (0, -1))
    assert last < 0.9 * first, "too short a training to compare"


def test_parts_of_batches_make_up_the_batches(tmp_path):
    data = pairs()
    write_h5(data, tmp_path / "pairs.h5")
    for split in (data.train, read_h5(tmp_path / "pairs.h5", stream=True).train):
        for size in (50, 2):
            whole = [batch._replace(view1=batch.view1.clone(), view2=batch.view2.clone())
                     for batch in pair_batches(split, size, seed=5, epoch=2, start=1, stop=4)]
            parts = [[batch._replace(view1=batch.view1.clone(), view2=batch.view2.clone())
                      for batch in pair_batches(split, size, seed=5, epoch=2, start=1, stop=4, part=(number, 3))]
                     for number in range(3)]
            assert len(whole) == 3
            for batch, *cut in zip(whole, *parts, strict=True):
                for column in range(3):
                    assert torch.equal(batch[column], torch.cat([part[column] for part in cut]))
        for view in (1, 2):
            items = torch.cat([items for batches in zip(*(view_batches(split, view, 40, part=(number, 3))
                                                          for number in range(3)), strict=True) for items in batches])
            assert torch.equal(items, getattr(data.train, f"view{view}"))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10, 11])
def test_shares_are_near_equal_and_contiguous(count):
    shares = [distributed.share(count, number, 3) for number in range(3)]
    assert [low for low, _ in shares] == [0, *(high for _, high in shares[:-1])] and shares[-1][1] == count
    lengths = [high - low for low, high in shares]
    assert max(lengths) - min(lengths) <= 1 and lengths == sorted(lengths, reverse=True)


def test_one_process_exchanges_nothing():
    z = torch.randn(3, 2, requires_grad=True)
    assert distributed.gather_rows(z)[0] is z and distributed.add_up(z) is z
    assert (distributed.largest(4), distributed.from_first(b"x"), distributed.first_to_say("x")) == (4, b"x", True)
    with distributed.joined():
        assert (distributed.rank(), distributed.size(), distributed.part_of(5)) == (0, 1, (0, 5))
        distributed.wait_for_all()


def test_a_covariance_travels_as_a_vector():
    x, y = torch.randn(30, 4).double() + 5, torch.randn(30, 3).double()
    whole = PairCovariance.of([(x, y)])
    merged = PairCovariance(4, 3)
    for rows in (slice(0, 11), slice(11, 11), slice(11, 30)):
        part = PairCovariance(4, 3)
        part.update(x[rows], y[rows])
        merged.merge(PairCovariance.from_state(part.state(), 4, 3))
    assert merged.count == 30
    for one, other in zip(whole.moments(), merged.moments(), strict=True):
        assert torch.allclose(one, other, atol=1e-13)


@pytest.mark.parametrize("shape", [(40, 6), (10, 6, 5), (8, 6, 4, 3)])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("affine", [True, False])
def test_shared_batch_norm_is_torchs(shape, momentum, affine):
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)]
    torchs = kind(6, momentum=momentum, affine=affine).double()
    ours = SharedBatchNorm.like(kind(6, momentum=momentum, affine=affine).double())
    inputs = [torch.randn(shape, dtype=torch.float64) * 3 + 7 for _ in range(3)]
    for x in inputs:
        x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
        z1, z2 = torchs(x1), ours(x2)
        assert torch.allclose(z1, z2)
        for z, leaf in ((z1, x1), (z2, x2)):
            (z * torch.arange(z.numel()).view(z.shape)).sum().backward()
            assert leaf.grad is not None
        assert torch.allclose(x1.grad, x2.grad, atol=1e-6)
    assert_same(dict(torchs.state_dict()), dict(ours.state_dict()))
    assert torch.allclose(torchs.eval()(inputs[0]), ours.eval()(inputs[0]))


# -- commands --------------------------------------------------------------------------------------------------------

ARGUMENTS = ["--model", MODEL, "--data", "digits", "--set", "max_epochs=4"]


def printed(folder: Path, name: str) -> str:
    return (folder / name).read_text()


def test_one_process_speaks_and_writes_for_all(tmp_path):
    together(command, 2, "run_train", str(tmp_path), ARGUMENTS)
    assert "2 processes" in printed(tmp_path, "out0.txt") and "kept in" in printed(tmp_path, "out0.txt")
    assert printed(tmp_path, "out1.txt") + printed(tmp_path, "err0.txt") + printed(tmp_path, "err1.txt") == ""
    together(command, 2, "refine_cca", str(tmp_path), [*ARGUMENTS[:4], "--n_train", "1001"])
    assert "estimated on 1,001 training pairs" in printed(tmp_path, "out0.txt")
    together(command, 2, "run_eval", str(tmp_path), [*ARGUMENTS[:4], "--estimate_UV", "--ci", "--embeddings", "z.h5"])
    run = tmp_path / "runs" / "digits_ccal_cont"
    assert (run / "metrics_est_UV.json").exists() and (tmp_path / "z.h5").exists()
    assert not list(tmp_path.rglob(".*.tmp"))


def test_a_fit_in_closed_form_needs_no_others(tmp_path):
    model = MODEL.replace("digits_ccal_cont", "digits_cca")
    together(command, 2, "run_train", str(tmp_path), ["--model", model, "--data", "digits"])
    together(command, 2, "run_eval", str(tmp_path), ["--model", model, "--data", "digits", "--linear_cca"])
    assert printed(tmp_path, "out0.txt").count("Top 01") == 1 and printed(tmp_path, "err1.txt") == ""


@pytest.mark.slow
def test_compiled_towers_of_several_processes(tmp_path):
    together(command, 2, "run_train", str(tmp_path), [*ARGUMENTS, "--compile", "--precision", "bf16"])
    assert "finished (max_epochs)" in printed(tmp_path, "out0.txt")


def test_a_mistake_is_said_once(tmp_path):
    processes = start(command, 3, "run_train", str(tmp_path), ["--model", MODEL, "--data", "no_such_data"])
    assert finish(processes) == [2, 2, 2]
    errors = "".join(printed(tmp_path, f"err{number}.txt") for number in range(3))
    assert errors.count("error: ") == 1 and "no_such_data" in errors


@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_dies_the_others_end_and_another_number_of_processes_goes_on(tmp_path, victim):
    arguments = [*ARGUMENTS[:4], "--set", "max_epochs=12", "--set", "patience=12", "--resume"]
    processes = start(command, 3, "run_train", str(tmp_path), arguments)
    log = tmp_path / "runs" / "digits_ccal_cont" / "resume.pt"
    until = time.monotonic() + 60
    while not log.exists() and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(processes[victim].pid or 0, signal.SIGKILL)
    codes = finish(processes, 60)
    assert codes == [-signal.SIGKILL if number == victim else 2 for number in range(3)]
    for number in {0, 1, 2} - {victim}:
        errors = printed(tmp_path, f"err{number}.txt")
        assert "Traceback" not in errors
    errors = "".join(printed(tmp_path, f"err{number}.txt") for number in {0, 1, 2} - {victim})
    assert "another process of this training ended or hangs" in errors and "--resume" in errors
    together(command, 2, "run_train", str(tmp_path), arguments)
    assert "continuing after epoch" in printed(tmp_path, "out0.txt")
    assert "finished (" in printed(tmp_path, "out0.txt")


def test_when_one_hangs_the_others_end(tmp_path):
    arguments = [*ARGUMENTS[:4], "--set", "max_epochs=60"]
    processes = start(command, 2, "run_train", str(tmp_path), arguments, XMODAL_TIMEOUT="8")
    log = tmp_path / "runs" / "digits_ccal_cont" / "log.jsonl"
    until = time.monotonic() + 60
    while not log.exists() and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(processes[1].pid or 0, signal.SIGSTOP)
    processes[0].join(60)
    assert processes[0].exitcode == 2
    assert "another process of this training ended or hangs" in printed(tmp_path, "err0.txt")
    finish(processes, 0)


def test_a_signal_to_one_stops_all_and_nothing_is_lost(tmp_path):
    arguments = [*ARGUMENTS[:4], "--set", "max_epochs=12", "--set", "patience=12", "--resume"]
    (tmp_path / "stopped").mkdir()
    (tmp_path / "whole").mkdir()
    together(command, 2, "run_train", str(tmp_path / "whole"), arguments)
    processes = start(command, 2, "run_train", str(tmp_path / "stopped"), arguments)
    until = time.monotonic() + 60
    while not (tmp_path / "stopped" / "runs" / "digits_ccal_cont" / "log.jsonl").exists() and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(processes[1].pid or 0, signal.SIGTERM)
    assert finish(processes, 60) == [143, 143]
    together(command, 2, "run_train", str(tmp_path / "stopped"), arguments)
    weights = Path("runs", "digits_ccal_cont", "weights.safetensors")
    assert (tmp_path / "whole" / weights).read_bytes() == (tmp_path / "stopped" / weights).read_bytes()


def test_all_stream_where_one_has_too_little_memory(tmp_path):
    write_h5(pairs(), tmp_path / "pairs.h5")
    assert finish(start(_short_of_memory, 3, str(tmp_path / "pairs.h5"))) == [0] * 3


def _short_of_memory(path: str) -> None:
    number = int(os.environ["RANK"])
    files.available_memory = lambda: 1000 if number == 1 else None
    with distributed.joined():
        assert distributed.local_size() == 3 and read_h5(path).train.is_streamed
        files.available_memory = lambda: 10**9 if number == 1 else None
        assert not read_h5(path).train.is_streamed
        needed = 3 * 4 * (12 + 9) * (203 + 47 + 31)  # by three processes
        for memory, streams in ((2 * needed, False), (2 * needed - 1, True)):
            files.available_memory = lambda memory=memory: memory
            assert read_h5(path).train.is_streamed == streams
        data = read_h5(path, stream=number == 2)
        model = two_towers(CCALayer(DIM))
        with pytest.raises(DataError, match="some stream them and others don't"):
            fit(model, TraceNorm(), data, TrainConfig(batch_size=50, max_epochs=1))


def test_a_model_that_does_not_gather_is_refused():
    assert finish(start(_untaught, 2)) == [0, 0]


def _untaught() -> None:
    class Own(TwoTower):
        def forward(self, x, y):
            return self.head(self.tower1(x), self.tower2(y))

    with distributed.joined():
        model = Own(mlp((12,), [], DIM), mlp((9,), [], DIM), CCALayer(DIM))
        with pytest.raises(Exception, match="Own can't be trained by several processes"):
            fit(model, TraceNorm(), pairs(), TrainConfig(batch_size=50, max_epochs=1))


@pytest.mark.parametrize("value", ["soon", "0", "-3", "1.5"])
def test_a_timeout_that_is_no_number_is_said(monkeypatch, value):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("XMODAL_TIMEOUT", value)
    with pytest.raises(ProcessError, match="XMODAL_TIMEOUT"), distributed.joined():
        pass
