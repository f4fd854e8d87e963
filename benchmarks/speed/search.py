"""Searching 1,000,000 embeddings of width 128 (see embeddings.py): exact, HNSW, IVF-PQ and binary codes.

Beside them FAISS' IndexFlatIP and a plain product with topk in torch. One thread, each stage in a process of its own,
candidates by turns. What is found is compared with what IndexFlatIP finds: recall@10 is the share of its ten rows, for
queries that no index was tuned with, and stands beside what the gallery measured when it was built. ``--full`` does the
same, but for codes, with a CCA layer in place of the learned projection (whitened embeddings, in which every dimension
counts as much), and exact search with random unit vectors, among which least can be ruled out.

The plot is docs/search_memory_recall.png: memory that must be held against recall@10. The vectors that candidates are
scored with may stay on disk; exact search needs them.
"""
from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.linear_cca.fits import memory
from benchmarks.speed import embeddings
from benchmarks.speed.common import (
    ROOT,
    Row,
    claim,
    cpu_name,
    cpu_seconds,
    in_own_process,
    median_ratio,
    say,
    take_turns,
)
from xmodal.search import Gallery
from xmodal.search.indexes import Effort

PLOT = ROOT / "docs" / "search_memory_recall.png"
COUNT, K, ROUNDS = 1_000_000, 10, 3
AT_ONCE = (1, 10, 100, 1000)
FLAT, EXACT, PLAIN, TORCH = "FAISS IndexFlatIP", "xmodal", "xmodal without bfloat16", "torch product and topk"
TORCH_BLOCK = 1 << 16
BITS, SHORTLISTS, CURVE_QUERIES = (32, 64, 128, 256), (100, 1000), 100
CODES = ("learned", "rotated", "sign")
INDEXES = {"hnsw": "HNSW", "ivfpq": "IVF-PQ"}
Search = Callable[[Tensor], Tensor]  # queries (q, d) to rows (q, K)


# -- searches ------------------------------------------------------------------------------------------------------


def faiss_flat(vectors: Tensor) -> Search:
    import faiss

    faiss.omp_set_num_threads(1)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors.numpy())
    return lambda queries: torch.from_numpy(index.search(queries.numpy(), K)[1])


def torch_topk(vectors: Tensor) -> Search:
    """The best of each block, and of those the best."""
    def search(queries: Tensor) -> Tensor:
        scores, rows = [], []
        for first in range(0, len(vectors), TORCH_BLOCK):
            top = (queries @ vectors[first:first + TORCH_BLOCK].T).topk(K, dim=1)
            scores.append(top.values)
            rows.append(top.indices + first)
        order = torch.cat(scores, dim=1).topk(K, dim=1).indices
        return torch.cat(rows, dim=1).gather(1, order)

    return search


def without_bfloat16(gallery: Gallery) -> Search:
    def search(queries: Tensor) -> Tensor:
        with patch("xmodal.nearest.has_bfloat16_units", lambda: False):
            return gallery.query(queries, K).rows

    return search


def random_units(count: int, seed: int) -> Tensor:
    drawn = torch.randn(count, embeddings.WIDTH, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn)


# -- stages, each in a process of its own ----------------------------------------------------------------------------


def exact(spec: Row) -> Row:
    """CPU seconds of the searches, by number of queries at once, and how their rows differ from those of FAISS."""
    if spec["data"] == "random":
        vectors, queries = random_units(spec["count"], 0), random_units(embeddings.QUERIES, 1)
    else:
        made = embeddings.read(spec["file"])
        vectors, queries = embeddings.repeated(made, spec["count"]), made["queries"]
    gallery = Gallery.build(vectors)
    searches = {FLAT: faiss_flat(vectors), EXACT: lambda some: gallery.query(some, K).rows,
                PLAIN: without_bfloat16(gallery), TORCH: torch_topk(vectors)}
    found: Row = {"seconds": {}, "differences": {}}
    for at_once in AT_ONCE:
        def timed(search: Search, at_once: int = at_once) -> Callable[[int], float]:
            def measured(number: int) -> float:
                first = number * at_once % (len(queries) - at_once + 1)
                return cpu_seconds(lambda: search(queries[first:first + at_once]), least=spec["least"])

            return measured

        found["seconds"][str(at_once)] = take_turns({name: timed(search) for name, search in searches.items()},
                                                    spec["rounds"])
    rows = {name: search(queries) for name, search in searches.items()}
    for name in (EXACT, PLAIN, TORCH):
        found["differences"][name] = differences(rows[name], rows[FLAT], queries, vectors)
    return found


def differences(rows: Tensor, others: Tensor, queries: Tensor, vectors: Tensor) -> Row:
    """Queries whose ten rows are not the same set, and by how much their scores differ at most, in float64."""
    unlike = (rows.sort(dim=1).values != others.sort(dim=1).values).any(dim=1).nonzero().flatten()
    scores = [torch.einsum("qkd,qd->qk", vectors[each[unlike]].double(), queries[unlike].double()).sort(dim=1).values
              for each in (rows, others)]
    return {"queries": len(unlike), "score": float((scores[0] - scores[1]).abs().max()) if len(unlike) else 0.0}


def recall_of(rows: Tensor, truth: Tensor) -> float:
    """The share of the true rows (q, K) that are among the found ones."""
    return float((rows[:, :, None] == truth[:, None, :]).any(dim=1).double().mean())


def index(spec: Row) -> Row:
    """A gallery of a kind: how long it took to build, its memory, its recall, and its searches beside exact ones."""
    made = embeddings.read(spec["file"])
    vectors, queries = embeddings.repeated(made, spec["count"]), made["queries"]
    Gallery.build(vectors[:20_000], kind=spec["kind"], queries=made["asked"][:1000], **spec.get("build", {}))  # warm
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    started = time.process_time()
    gallery = Gallery.build(vectors, kind=spec["kind"], queries=made["asked"], **spec.get("build", {}))
    found: Row = {"build_seconds": time.process_time() - started, "build_peak_mb": memory("VmHWM") - before,
                  **gallery.describe()}
    flat = faiss_flat(vectors)
    truth, rows = flat(queries), gallery.query(queries, K).rows
    found["recall_measured"] = recall_of(rows, truth)
    found["seconds"] = searching(gallery, flat, queries, spec["kind"], spec["least"], spec["rounds"])
    return found


def searching(gallery: Gallery, flat: Search, queries: Tensor, name: str, least: float, rounds: int
              ) -> dict[str, list[float]]:
    """CPU seconds of the gallery's search, of its exact one, and of FAISS."""
    candidates: dict[str, Callable[[], object]] = {
        FLAT: lambda: flat(queries), EXACT: lambda: gallery.query(queries, K, exact=True),
        name: lambda: gallery.query(queries, K)}
    return take_turns({each: lambda _, run=run: cpu_seconds(run, least) for each, run in candidates.items()}, rounds)


def curve(spec: Row) -> list[Row]:
    """Recall and CPU seconds by bits and length of the shortlist, of codes of one kind; exact searches beside them."""
    made = embeddings.read(spec["file"])
    vectors, queries = embeddings.repeated(made, spec["count"]), made["queries"][:CURVE_QUERIES]
    flat, whole = faiss_flat(vectors), Gallery.build(vectors)
    truth, points = flat(queries), []
    beside = {FLAT: cpu_seconds(lambda: flat(queries)), EXACT: cpu_seconds(lambda: whole.query(queries, K), 0.3)}
    for bits in BITS:
        if spec["codes"] == "sign" and bits > embeddings.WIDTH:
            continue
        started = time.process_time()
        gallery = Gallery.build(vectors, kind="codes", codes=spec["codes"], bits=bits, queries=made["asked"],
                                recall=1e-9)  # the first effort will do, others are set below
        seconds = time.process_time() - started
        for shortlist in SHORTLISTS:
            gallery._effort = Effort(0, shortlist)
            started = time.process_time()
            rows = gallery.query(queries, K).rows
            points.append({"codes": spec["codes"], "bits": bits, "shortlist": shortlist, "build_seconds": seconds,
                           "index_bytes": gallery.describe()["index_bytes"], "recall": recall_of(rows, truth),
                           "seconds": {"codes": time.process_time() - started, **beside}})
    return points


STAGES = {"exact": exact, "index": index, "curve": curve}


# -- the part --------------------------------------------------------------------------------------------------------


def run(quick: bool, device: str = "cpu", full: bool = False) -> Row:
    if importlib.util.find_spec("faiss") is None:
        say("FAISS is not installed, there is nothing to search with or to compare with: pip install .[search]")
        return {"claims": []}
    count, least, rounds = (20_000, 0.0, 1) if quick else (COUNT, 0.3, ROUNDS)
    made: Row = {"count": count, "k": K, "rounds": rounds, "claims": []}
    common = {"count": count, "least": least, "rounds": rounds}
    for model in list(embeddings.HEADS)[:2 if full else 1]:
        with tempfile.TemporaryDirectory() as folder:
            about = embeddings.prepare(Path(folder) / "embeddings.safetensors", model, quick)
            common |= {"file": str(Path(folder) / "embeddings.safetensors"), "data": model}
            say(f"  search: {about}")
            found = made[model] = {"about": about, **measured(common)}
            if not made["claims"]:
                found["curve"] = [point for how in CODES for point in
                                  stage("curve", {**common, "codes": how})["points"]]
            made["claims"] += claims(found, f"search, {about['what']}")
    if full:
        made["random"] = stage("exact", {**common, "data": "random"})
        made["claims"] += exact_claims(made["random"], "search, random unit vectors")
    if not quick:
        draw(made[next(iter(embeddings.HEADS))])
    return made


def measured(common: Row) -> Row:
    """The stages that every model's embeddings go through; codes are for the first alone."""
    found: Row = {"exact": stage("exact", common)}
    for kind in INDEXES:
        found[kind] = stage("index", {**common, "kind": kind})
    return found


def stage(name: str, spec: Row) -> Row:
    found = in_own_process(__name__, {**spec, "stage": name})
    say(f"  search, {name}, {spec['data']}, {spec.get('kind', spec.get('codes', ''))}: {found}")
    return found


def exact_claims(found: Row, title: str) -> list[Row]:
    made = []
    for at_once, seconds in found["seconds"].items():
        for name in (EXACT, PLAIN, TORCH):
            bound = {"at_most": 1.1} if name == EXACT else {}
            made.append(claim(f"{title}: exact, {at_once} at once, {name} to {FLAT}, time",
                              median_ratio(seconds[name], seconds[FLAT]), **bound))
    made.append(claim(f"{title}: exact, queries whose rows differ from {FLAT} by more than 1e-6 in score",
                      found["differences"][EXACT]["queries"] if found["differences"][EXACT]["score"] > 1e-6 else 0,
                      at_most=0))
    return made


def claims(found: Row, title: str) -> list[Row]:
    made = exact_claims(found["exact"], title)
    for kind, name in INDEXES.items():
        row = found[kind]
        ours, times = row["seconds"][kind], row["seconds"]
        made.append(claim(f"{title}: {name}, recall@10 of other queries", row["recall_measured"], at_least=0.95))
        made.append(claim(f"{title}: {name}, recall@10 by its own account", row["recall_at_10"]))
        made.append(claim(f"{title}: exact to {name}, time", median_ratio(times[EXACT], ours), at_least=20))
        made.append(claim(f"{title}: {FLAT} to {name}, time", median_ratio(times[FLAT], ours)))
        made.append(claim(f"{title}: {name}, memory to that of the vectors", row["index_bytes"] / row["vector_bytes"]))
        made.append(claim(f"{title}: {name}, build, CPU seconds", row["build_seconds"]))
    return made + code_claims(found.get("curve", []), title)


def code_claims(points: list[Row], title: str) -> list[Row]:
    """Of 128 bits and the longest shortlist."""
    made = []
    for point in points:
        if (point["bits"], point["shortlist"]) == (128, SHORTLISTS[-1]):
            name = f"{title}: 128 {point['codes']} bits, the best {SHORTLISTS[-1]:,} compared"
            times = point["seconds"]
            made.append(claim(f"{name}, recall@10 of other queries", point["recall"],
                              **({"at_least": 0.9} if point["codes"] == CODES[0] else {})))
            made.append(claim(f"{name}, {CURVE_QUERIES} at once, exact to codes, time",
                              times[EXACT] / times["codes"]))
    return made


def draw(found: Row) -> None:
    """Memory against recall: a curve for each kind of code and shortlist, points for the others."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    from xmodal.report.curves import COLOURS

    figure, axis = pyplot.subplots(figsize=(8.5, 5.2))
    for how, colour, marker in zip(CODES, COLOURS, "osD", strict=False):
        for shortlist in SHORTLISTS:
            points = [point for point in found["curve"] if (point["codes"], point["shortlist"]) == (how, shortlist)]
            axis.plot([point["index_bytes"] / 1e6 for point in points], [point["recall"] for point in points],
                      color=colour, marker=marker, markersize=6, linestyle="-" if shortlist == SHORTLISTS[-1] else ":",
                      label=f"{how} codes, the best {shortlist:,} compared")
    one = found["hnsw"]
    others = [("exact search", one["vector_bytes"], 1.0, COLOURS[4], "*"),
              *((f"{name}", found[kind]["index_bytes"], found[kind]["recall_measured"], COLOURS[3 + 2 * i], marker)
                for i, ((kind, name), marker) in enumerate(zip(INDEXES.items(), "^v", strict=True)))]
    for name, size, recall, colour, marker in others:
        axis.plot([size / 1e6], [recall], marker=marker, markersize=12, color=colour, linestyle="none", label=name)
    axis.set_xscale("log")
    ticks = [4, 8, 16, 32, 64, 128, 256, 512]
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()
    axis.set_ylim(0, 1.04)
    axis.set_xlabel("memory that must be held, MB (codes of 32, 64, 128 and 256 bits: 4, 8, 16 and 32 MB)")
    axis.set_ylabel("recall@10")
    axis.grid(True, linewidth=0.4)
    axis.legend(frameon=False, fontsize=9, loc="lower right")
    axis.set_title(f"{one['items']:,} embeddings of width {one['dim']}; {cpu_name()}", fontsize=10)
    figure.tight_layout()
    figure.savefig(PLOT, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    torch.set_num_threads(1)
    said = json.loads(sys.argv[1])
    result = STAGES[said["stage"]](said)
    print(json.dumps({"points": result} if isinstance(result, list) else result))
