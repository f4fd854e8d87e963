"""CCALayer forward and backward against the formulation by eigendecompositions, and Newton–Schulz iterations.

n = 4 d pairs of float32 tower outputs, one thread, two losses: the negative trace norm, which sees the singular values
alone, and the negative mean cosine of the projected pairs, which goes through the projections as retrieval losses do.
Times are of all in turn in one process; peak memory is that of a process of its own, beyond what was resident before
the first call.

The eigh formulation is the textbook one: ``S^(-1/2)`` of both covariances by ``eigh``, the SVD of ``T`` for singular
values and projections, autograd through all of it. It runs in float32, as public code does, and in float64, in which
CCALayer computes.

Newton–Schulz iterations ``X ← X (3 I − Xᵀ X)/2`` give the polar factor ``Q`` of ``T`` by products alone. They are timed
against what they would replace, the float64 decomposition that CCALayer takes, and against LAPACK's SVD, and end when
``‖I − Xᵀ X‖ / √d`` is below 1e-5 (float32) or 1e-9 (float64).
"""
from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.linear_cca.fits import memory
from benchmarks.speed.common import Row, claim, cpu_seconds, in_own_process, median_ratio, say, take_turns
from xmodal import CCALayer
from xmodal.covariance import batch_moments
from xmodal.linalg import cholesky, ridged, square_svd, whitened_cross_covariance

RIDGE, EPS = 1e-3, float(torch.finfo(torch.float32).eps)
DIMENSIONS = (32, 128, 512, 1024)
MOST_STEPS = 100
Projected = tuple[Tensor, Tensor, Tensor]  # both views and the correlations
Project = Callable[[Tensor, Tensor], Projected]
LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "trace norm": lambda z1, z2, sigma: -sigma.sum(),
    "cosine": lambda z1, z2, sigma: -torch.nn.functional.cosine_similarity(z1, z2).mean()}


def outputs(d: int) -> tuple[Tensor, Tensor]:
    """Two views (4 d, d) that share some of what is in them, in different amounts."""
    generator = torch.Generator().manual_seed(d)
    shared = torch.randn(4 * d, d, generator=generator) * torch.linspace(2, 0, d)
    mix = torch.randn(2, d, d, generator=generator) / d**0.5
    a, b = (shared @ mix[i] + torch.randn(4 * d, d, generator=generator) for i in (0, 1))
    return a.requires_grad_(), b.requires_grad_()


def with_layer(d: int) -> Project:
    layer = CCALayer(d, RIDGE, RIDGE).train()
    layer._warned = True  # that 4 pairs a dimension are few
    return lambda a, b: layer(a, b)[:3]


def with_eigh(dtype: torch.dtype) -> Project:
    def inverse_root(S: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(S)
        return vectors * values.rsqrt() @ vectors.mT

    def project(a: Tensor, b: Tensor) -> Projected:
        a, b = a.to(dtype), b.to(dtype)
        a, b = a - a.mean(dim=0), b - b.mean(dim=0)
        ridge, scale = RIDGE * torch.eye(a.shape[1], dtype=dtype), 1 / (len(a) - 1)
        root1, root2 = inverse_root(a.mT @ a * scale + ridge), inverse_root(b.mT @ b * scale + ridge)
        E, sigma, Ft = torch.linalg.svd(root1 @ (a.mT @ b * scale) @ root2)
        return a @ (root1 @ E), b @ (root2 @ Ft.mT), sigma

    return project


def newton_schulz(T: Tensor) -> tuple[Tensor, int]:
    """The polar factor of ``T``, whose singular values are at most 1, and how many steps that took."""
    tolerance = 1e-5 if T.dtype == torch.float32 else 1e-9
    X, identity = T, torch.eye(len(T), dtype=T.dtype)
    for step in range(MOST_STEPS):
        gram = X.mT @ X
        if float(torch.linalg.matrix_norm(identity - gram)) <= tolerance * len(T)**0.5:
            return X, step
        X = torch.addmm(X, X, gram, beta=1.5, alpha=-0.5)
    return X, MOST_STEPS


def whitened_cross(a: Tensor, b: Tensor) -> Tensor:
    """``T`` (d, d) in float64, as CCALayer has it."""
    moments = batch_moments(a.double(), b.double())
    L1, L2 = cholesky(ridged(moments.S11, RIDGE, EPS), "view1"), cholesky(ridged(moments.S22, RIDGE, EPS), "view2")
    return whitened_cross_covariance(moments.S12, L1, L2)


def polar_factor(T: Tensor, decompose: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    E, _, Ft = decompose(T)
    return E @ Ft


METHODS: dict[str, Callable[[int], Project]] = {
    "CCALayer": with_layer,
    "eigh, float32": lambda _: with_eigh(torch.float32), "eigh, float64": lambda _: with_eigh(torch.float64)}
ITERATIONS = {"Newton–Schulz, float32": torch.float32, "Newton–Schulz, float64": torch.float64}


def step(method: str, d: int, loss: str = "trace norm") -> Callable[[], tuple[Tensor, Tensor]]:
    """A function that goes forward and backward, and gives loss and gradient of view 1."""
    project, (a, b) = METHODS[method](d), outputs(d)

    def run() -> tuple[Tensor, Tensor]:
        a.grad = b.grad = None
        value = LOSSES[loss](*project(a, b))
        value.backward()
        return value.detach(), a.grad

    return run


def accuracy(d: int) -> Row:
    """Of each method's loss and gradient, relative to those of singular values in float64; and of the iterations."""
    a, b = outputs(d)
    T = whitened_cross(a, b)
    sigma = torch.linalg.svdvals(T)
    sigma.sum().neg().backward()
    found: Row = {"least_singular_value": float(sigma.min())}
    for method in METHODS:
        value, gradient = step(method, d)()
        found[method] = {"loss": abs(float(value + sigma.sum()) / float(sigma.sum())),
                         "gradient": float((gradient - a.grad).norm() / a.grad.norm())}
    exact = polar_factor(T.detach(), torch.linalg.svd)
    found["CCALayer's decomposition"] = {
        "deviation": float((polar_factor(T.detach(), square_svd) - exact).norm() / d**0.5)}
    for name, dtype in ITERATIONS.items():
        Q, steps = newton_schulz(T.detach().to(dtype))
        found[name] = {"steps": steps, "deviation": float((Q - exact).norm() / d**0.5)}
    return found


def child(spec: Row) -> Row:
    """Peak memory of one forward and backward in this process, in MB beyond what is resident before it."""
    step(spec["method"], 8, spec["loss"])()
    run = step(spec["method"], spec["d"], spec["loss"])
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    run()
    return {"mb": memory("VmHWM") - before}


def run(quick: bool, device: str = "cpu", full: bool = False) -> Row:
    made: Row = {"sizes": {}, "claims": []}
    for d in DIMENSIONS[1:2] if quick else DIMENSIONS:
        T = whitened_cross(*outputs(d)).detach()
        runs: dict[str, Callable[[], object]] = {f"{name}, {loss}": step(name, d, loss) for loss in LOSSES
                                                 for name in METHODS}
        runs["CCALayer's decomposition"] = partial(polar_factor, T, square_svd)
        runs["LAPACK's SVD"] = partial(polar_factor, T, torch.linalg.svd)
        runs |= {name: partial(newton_schulz, T.to(dtype)) for name, dtype in ITERATIONS.items()}
        seconds = take_turns({name: lambda _, run=run: cpu_seconds(run, least=0.05 if quick else 0.2)
                              for name, run in runs.items()}, rounds=2 if quick else 3 if d == 1024 else 5)
        memories = {f"{name}, {loss}": in_own_process(__name__, {"method": name, "d": d, "loss": loss})
                    for loss in LOSSES for name in METHODS}
        made["sizes"][d] = {"seconds": seconds, "memory": memories, "accuracy": accuracy(d)}
        for loss in LOSSES:
            ours = f"CCALayer, {loss}"
            for name in list(METHODS)[1:]:
                theirs = f"{name}, {loss}"
                made["claims"].append(claim(f"layer: d = {d}, {loss}, {name} to CCALayer, time",
                                            median_ratio(seconds[theirs], seconds[ours])))
                if d >= 128 and "mb" in memories[theirs] and "mb" in memories[ours]:  # less can't be told from nothing
                    made["claims"].append(claim(f"layer: d = {d}, {loss}, {name} to CCALayer, peak memory",
                                                memories[theirs]["mb"] / memories[ours]["mb"]))
        for name in ("LAPACK's SVD", *ITERATIONS):
            made["claims"].append(claim(f"layer: d = {d}, polar factor by {name} to CCALayer's decomposition, time",
                                        median_ratio(seconds[name], seconds["CCALayer's decomposition"])))
        say(f"  layer, d = {d}: {made['sizes'][d]}")
    return made


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(child(json.loads(sys.argv[1]))))
