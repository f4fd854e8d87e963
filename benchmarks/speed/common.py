"""What the parts share: the machine's name, taking turns, processes of their own, rows of the table, kept results."""
from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.trainings import RESULTS
from xmodal.atomic import replacing

ROOT = Path(__file__).parent.parent.parent
Row = dict[str, Any]


def processor() -> dict[str, str]:
    """What the kernel says of the first processor; Linux only, else nothing."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().split("\n\n")[0].splitlines() if file.exists() else []
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def cpu_name() -> str:
    """The model's name as its maker writes it, with family and model where the name alone says little."""
    found = processor()
    name = re.sub(r"\((R|TM)\)", "", found.get("model name") or platform.processor() or platform.machine())
    name = re.sub(r"\s+", " ", name.replace("CPU", "")).split("@")[0].strip()
    return name if re.search(r"\d", name) or "model" not in found else \
        f"{name}, family {found['cpu family']} model {found['model']}"


def device_name(device: str = "cpu") -> str:
    return cpu_name() if device == "cpu" else torch.cuda.get_device_name(device)


def machine() -> Row:
    """Names no host, user or path."""
    flags = processor().get("flags", "").split()
    return {"cpu": cpu_name(), "cores": os.cpu_count(), "bfloat16 products": "amx_bf16" in flags,
            "system": platform.system(), "python": platform.python_version(), "torch": torch.__version__,
            "threads": 1, "blas": "MKL" if torch.backends.mkl.is_available() else "other"}


def results_file(device: str = "cpu") -> Path:
    """``results/<model of the processor or accelerator>.json``."""
    return RESULTS / f"{re.sub(r'[^a-z0-9]+', '_', device_name(device).lower()).strip('_')}.json"


def merge(part: str, found: Row, device: str = "cpu") -> None:
    """Puts a part's results in place of its earlier ones; those of other parts stay."""
    file = results_file(device)
    kept = json.loads(file.read_text()) if file.exists() else {}
    kept["machine"] = machine() | ({} if device == "cpu" else {"accelerator": device_name(device)})
    kept.setdefault("parts", {})[part] = {"torch": torch.__version__, **found}
    with replacing(file) as written:
        written.write_text(json.dumps(rounded(kept), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def rounded(value: Any) -> Any:
    """Floats of five digits, all through nested lists and dictionaries."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value


def take_turns(candidates: dict[str, Callable[[int], float]], rounds: int) -> dict[str, list[float]]:
    """What each candidate gives for the number of a round, round after round; the order turns from round to round."""
    found: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds):
        names = list(candidates)
        for name in names[number % len(names):] + names[:number % len(names)]:
            found[name].append(candidates[name](number))
    return found


def cpu_seconds(run: Callable[[], object], least: float = 0.0, most: int = 1000) -> float:
    """CPU seconds of one call, the mean of as many as ``least`` seconds take."""
    started, calls = time.process_time(), 0
    while calls == 0 or (time.process_time() - started < least and calls < most):
        run()
        calls += 1
    return (time.process_time() - started) / calls


def median_ratio(these: Sequence[float], those: Sequence[float]) -> float:
    """Median over rounds of one candidate's figure to another's."""
    return statistics.median(a / b for a, b in zip(these, those, strict=True))


def claim(what: str, value: float, *, at_most: float | None = None, at_least: float | None = None) -> Row:
    """A line of the table of ratios; with a bound it also says whether it holds."""
    made: Row = {"what": what, "value": value}
    if at_most is not None:
        made |= {"target": f"≤ {at_most:g}", "met": value <= at_most}
    if at_least is not None:
        made |= {"target": f"≥ {at_least:g}", "met": value >= at_least}
    return made


def in_own_process(module: str, spec: Row) -> Row:
    """The JSON line that ``python -m module SPEC`` prints; ``{"failed": why}`` if it fails. One thread."""
    limited = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run([sys.executable, "-m", module, json.dumps(spec)], capture_output=True, text=True, cwd=ROOT,
                          env={**os.environ, **limited})
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1][:120]}
    found: Row = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def say(text: str) -> None:
    """Progress, beside the table."""
    print(text, file=sys.stderr, flush=True)
