"""Reports what is here and what is missing: versions, extras, devices, threads, memory, data, runs, a step of training.

  xmodal doctor
      all is well if it ends with exit code 0
  xmodal doctor --json
      the same for programs
  xmodal doctor --data_dir DIR --runs DIR
      looks for data and runs elsewhere

Exit code 2 says that something is missing without which nothing works. Extras, GPUs and data sets may be missing: the
report says what each is for and how to get it.
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement

from xmodal.checkpoint import RunFolder, version_of
from xmodal.cli.common import EXIT_ERROR, command_parser, run_command
from xmodal.cli.program import as_typed
from xmodal.data import load_data
from xmodal.data.memory import available_memory
from xmodal.data.sets import DATA_SETS, default_data_dir
from xmodal.errors import XmodalError
from xmodal.layers import CCALayer

#: What each extra is for.
EXTRAS = {"images": "pictures: prepare emoji, icons, from_folder", "text": "sentence vectors of texts",
          "audio": "prepare audio_score", "search": "galleries hnsw and ivfpq (FAISS)", "milvus": "galleries in Milvus",
          "demo": "the local page of xmodal demo", "tune": "xmodal tune", "tensorboard": "train --tensorboard",
          "completion": "completion in the shell", "docs": "building the documentation", "dev": "tests and checks"}
#: What programs of others are for.
PROGRAMS = {"npm": "fetches the packages that emoji and icons are made of (or --source DIR)"}
_COLUMN = 16
_GIB = 1 << 30


def main(argv: Sequence[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    return run_command(lambda: _doctor(args), args.debug)


def make_parser() -> argparse.ArgumentParser:
    parser = command_parser(__doc__)
    parser.add_argument("--data_dir", type=Path, metavar="DIR", help="where prepared data lie (default: $XMODAL_DATA, "
                        "or data)")
    parser.add_argument("--runs", default="runs", metavar="DIR", type=Path, help="where runs are kept (default: runs)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a report")
    return parser


def _doctor(args: argparse.Namespace) -> int:
    found = examined(args.data_dir or default_data_dir(), args.runs)
    print(json.dumps(found, indent=2, ensure_ascii=False) if args.json else "\n".join(report(found)))
    return EXIT_ERROR if found["missing"] else 0


def examined(data_dir: Path, runs: Path) -> dict[str, Any]:
    """What is here, by topic, and under ``missing`` a line for everything that has to be there and isn't."""
    packages, extras = _packages()
    step = _step()
    missing = [f"{name} {version}, needs {needs}" for name, (version, needs, fits) in packages.items() if not fits]
    return {"version": version_of("xmodal"), "place": str(Path(__file__).parent.parent),
            "python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}",
            "packages": {name: version for name, (version, _, _) in packages.items()}, "extras": extras,
            "programs": {"npm": shutil.which("npm") is not None}, "devices": _devices(), "threads": _threads(),
            "memory": {"free": available_memory(), "free on disk": shutil.disk_usage(Path.cwd()).free},
            "data_dir": str(data_dir), "data": dict(_data(data_dir)), "runs_dir": str(runs), "runs": _runs(runs),
            "step": step or "finite", "missing": missing + ([step] if step else [])}


def _packages() -> tuple[dict[str, tuple[str, str, bool]], dict[str, list[str]]]:
    """Of what xmodal always needs: (version, range, whether it fits); of every extra: what is missing."""
    core: dict[str, tuple[str, str, bool]] = {}
    extras: dict[str, list[str]] = {}
    try:
        requirements = metadata.requires("xmodal") or []
    except metadata.PackageNotFoundError:
        return {"xmodal": ("not installed as a package", "pip install", False)}, {}
    for text in requirements:
        requirement = Requirement(text)
        extra = re.search(r"extra == ['\"](\w+)['\"]", text)
        if extra and requirement.marker is not None and not requirement.marker.evaluate({"extra": extra[1]}):
            continue
        version = version_of(requirement.name)
        fits = version[:1].isdigit() and requirement.specifier.contains(version, prereleases=True)
        if extra is None:
            core[requirement.name] = (version, str(requirement.specifier), fits)
        else:
            extras.setdefault(extra[1], []).extend([] if fits else [f"{requirement.name}{requirement.specifier}"])
    return core, extras


def _devices() -> list[str]:
    flags = _cpu("flags").split()
    fast = next((name for flag, name in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX-512")) if flag in flags), None)
    devices = [f"cpu: {_cpu('model name') or platform.processor() or platform.machine()}, {_cores()} cores to use"
               + (f", bfloat16 by {fast}: --precision bf16 pays" if fast else "")]
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        devices.append(f"cuda:{index}: {about.name}, {about.total_memory / _GIB:.0f} GiB")
    if len(devices) == 1:
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        devices.append(f"cuda: none (torch is built {built})")
    return devices


def _cpu(field: str) -> str:
    """A field of the first processor in ``/proc/cpuinfo``; "" where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.split("\t")[0].strip() == field), "")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads() -> dict[str, Any]:
    threads = {"torch": torch.get_num_threads(), "cores": _cores()}
    return threads | {name: os.environ[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY")
                      if name in os.environ}


def _data(folder: Path) -> Iterator[tuple[str, str]]:
    """Every data set and file of one's own, and in what state it is."""
    files = sorted(folder.glob("*.h5"))
    for name, known in DATA_SETS.items():
        if known.load is not None:
            yield name, "built in"
        elif folder / f"{name}.h5" in files:
            yield name, _state(folder / f"{name}.h5")
        elif "captions" not in known.options:  # from_folder makes data of one's own
            yield name, as_typed(f"not prepared: python prepare_data.py {name}")
    for file in files:
        if file.stem not in DATA_SETS:
            yield file.stem, _state(file)


def _state(file: Path) -> str:
    try:
        data = load_data(str(file), stream=True)
    except XmodalError as error:
        return f"can't be used: {error}"
    pairs = " / ".join(f"{len(split):,}" for split in (data.train, data.valid, data.test))
    return f"{pairs} pairs, {file.stat().st_size / 1e6:,.1f} MB{', synthetic' if data.synthetic else ''}"


def _runs(folder: Path) -> dict[str, int]:
    runs = [RunFolder(path.parent) for path in folder.glob(f"*/{RunFolder.CONFIG}")]
    return {"runs": len(runs), "evaluated": sum(run.file(RunFolder.METRICS).is_file() for run in runs)}


def _step() -> str:
    """What went wrong in a step through the CCA layer on a duplicated column; "" where nothing did."""
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    x[:, 1] = x[:, 0]
    x.requires_grad_()
    try:
        made = CCALayer(4)(x, x.detach().flip(1))
        (made.view1 * made.view2).sum().backward()
    except Exception as error:  # whatever it is, the report says it
        return f"a step of the CCA layer fails: {type(error).__name__}: {error}"
    return "" if x.grad is not None and bool(x.grad.isfinite().all()) else "a step of the CCA layer is not finite"


def report(found: Mapping[str, Any]) -> list[str]:
    """Lines of at most 80 columns that tell what :func:`examined` found."""
    lines = [f"xmodal {found['version']}, Python {found['python']}, {found['system']}", found["place"], "", "Packages"]
    lines += _rows(found["packages"].items())
    lines += ["", "Extras"]
    lines += _rows((name, _extra(name, missing)) for name, missing in found["extras"].items())
    lines += ["", "Programs", *_rows((name, f"{'here' if here else 'not here'}: {PROGRAMS[name]}")
                                     for name, here in found["programs"].items())]
    lines += ["", "Devices", *_rows(device.split(": ", 1) for device in found["devices"]), "", "Threads"]
    lines += _rows(found["threads"].items())
    lines += ["", "Memory", *_rows((name, "unknown" if amount is None else f"{amount / _GIB:,.1f} GiB")
                                   for name, amount in found["memory"].items())]
    lines += ["", f"Data in {found['data_dir']}", *_rows(found["data"].items())]
    lines += ["", f"Runs in {found['runs_dir']}", *_rows(found["runs"].items())]
    lines += ["", "Check", *_rows([("CCA layer", "a step on a duplicated column is " + found["step"]
                                    if found["step"] == "finite" else found["step"])])]
    return [*lines, "", *(["All that is needed is here."] if not found["missing"] else
                          [f"Missing: {line}" for line in found["missing"]])]


def _extra(name: str, missing: Sequence[str]) -> str:
    purpose = EXTRAS.get(name, "")
    if not missing:
        return f"here: {purpose}" if purpose else "here"
    return f'not here: {purpose}; pip install "xmodal[{name}]" brings {", ".join(missing)}'


def _rows(pairs: Iterable[Sequence[Any]]) -> list[str]:
    """A line for each name and what is to be said of it, folded at 80 columns."""
    return [line for name, text in pairs
            for line in textwrap.wrap(f"  {name:<{_COLUMN}}{text}", 80, subsequent_indent=" " * (_COLUMN + 2),
                                      break_long_words=False, break_on_hyphens=False)]
