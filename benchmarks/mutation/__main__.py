"""Mutants of the arithmetic (mutmut), each of which some test must notice.

  python -m benchmarks.mutation linalg                         # every mutant of the group
  python -m benchmarks.mutation metrics --sample 500 --seed 0  # so many of them, drawn at random
  python -m benchmarks.mutation linalg --only xmodal.linalg.x_noise_floor__mutmut_21
  python -m benchmarks.mutation linalg --survivors             # those that survived last time, after writing tests

Works in a copy of the tree (``--work``, kept for the next call), with one process. Prints what each module's mutants
came to and the difference that each survivor makes.
"""
from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("xmodal", "models", "benchmarks", "setup.py", "README.md")
HELPERS = ("conftest", "browser", "processes", "loopback")
#: mutmut's exit codes, of pytest or of a process that was ended.
OUTCOMES = {0: "survived", 1: "killed", 3: "killed", 33: "no test", 24: "timeout", -24: "timeout", 36: "timeout",
            152: "timeout", 255: "timeout", -11: "crashed", -6: "crashed"}


class Group(NamedTuple):
    """Modules that are mutated together, and the tests that are their oracle."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]
    without: tuple[str, ...] = ()  # tests that train, run commands or take long, by parts of their names


GROUPS = {
    "linalg": Group(("linalg.py", "covariance.py"), ("test_linalg", "test_covariance")),
    "metrics": Group(("metrics/*",), ("test_metrics", "test_groups", "test_hubness", "test_plane", "test_comparison",
                                      "test_identification", "test_verification", "test_within", "test_transfer"),
                     ("command", "ways_are_their_parts", "options_that_do_not_fit", "digits_", "report_equals",
                      "ten_class_names", "no_more_alarms", "about_as_often", "unrelated_embeddings", "curves_are",
                      "classes_of_their_own", "training_items_are", "thinned_out", "views_on_disk", "[1]", "-1]",
                      "no_threshold_is_better", "on_small_integers")),
    "objectives": Group(("objectives/*",), ("test_objectives", "test_objectives_in_batch", "test_autoencoders",
                                            "test_variational", "test_verifier"),
                        ("command", "train_as_well", "start_from_autoencoders", "resumed", "end_to_end", "frozen",
                         "warm_up_keeps", "compiled", "several_processes", "linear_autoencoder", "optimum_of",
                         "classes_need_labels", "least_eckart_young_loss", "conv_autoencoders")),
}

#: Appended to the copy's conftest.py: a property that fails needs no smaller example, and some tests are left out.
CONFTEST = """
hypothesis.settings.register_profile("mutation", derandomize=True, deadline=None, database=None,
                                     phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate])
hypothesis.settings.load_profile("mutation")


def pytest_collection_modifyitems(items):
    items[:] = [item for item in items if not any(part in item.nodeid for part in {without})]
"""


def mutable(source: str) -> str:
    """``source`` as mutmut is to see it.

    Wording stays: lines of ``raise`` and of ``warn``, and ``extra_repr``, are marked not to be mutated. Decorated
    functions, which mutmut passes over, are decorated below their definition: ``@property def S`` becomes
    ``def undecorated_S`` and ``S = property(undecorated_S)``.
    """
    lines = source.splitlines()
    tree = ast.parse(source)
    for node in ast.walk(tree):
        wording = isinstance(node, ast.Raise) or (isinstance(node, ast.FunctionDef) and node.name == "extra_repr") or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
            and ast.unparse(node.value.func) == "warnings.warn")
        if wording:
            for i in range(node.lineno - 1, node.end_lineno):
                lines[i] += "  # pragma: no mutate"
    decorated = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.decorator_list
                 and [ast.unparse(d) for d in node.decorator_list] not in (["staticmethod"], ["classmethod"])]
    for node in sorted(decorated, key=lambda node: -node.lineno):
        name = f"undecorated_{node.name}"
        value = name
        for decorator in reversed(node.decorator_list):
            value = f"{ast.unparse(decorator)}({value})"
        lines.insert(node.end_lineno, " " * node.col_offset + f"{node.name} = {value}")
        lines[node.lineno - 1] = lines[node.lineno - 1].replace(f"def {node.name}(", f"def {name}(", 1)
        for decorator in node.decorator_list:
            lines[decorator.lineno - 1] = ""
    return "\n".join(lines) + "\n"


def prepare(group: Group, work: Path) -> list[Path]:
    """Copies what is newer than the copy, and returns the modules to mutate, relative to ``work``."""
    work.mkdir(parents=True, exist_ok=True)
    paths = [path for module in group.modules for path in sorted((ROOT / "xmodal").glob(module))
             if path.suffix == ".py" and path.name != "__init__.py"]
    mutated = [path.relative_to(ROOT) for path in paths]
    for name in COPIED:
        if not (work / name).exists():
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy2)(ROOT / name, work / name)
            if name == "xmodal":
                for module in mutated:
                    (work / module).write_text(mutable((ROOT / module).read_text()))
    (work / "tests").mkdir(exist_ok=True)
    for name in (*HELPERS, *group.tests):
        text = (ROOT / "tests" / f"{name}.py").read_text() + (
            CONFTEST.format(without=group.without) if name == "conftest" else "")
        copy = work / "tests" / f"{name}.py"
        if not copy.exists() or copy.read_text() != text:
            copy.write_text(text)
    (work / "pyproject.toml").write_text(f"""[tool.mutmut]
source_paths = ["xmodal"]
only_mutate = {json.dumps([str(path) for path in mutated])}
also_copy = ["models", "benchmarks", "README.md"]
pytest_add_cli_args_test_selection = {json.dumps([f"tests/{name}.py" for name in group.tests])}
pytest_add_cli_args = ["-p", "no:cacheprovider"]
timeout_constant = 3.0
timeout_multiplier = 5.0

[tool.pytest.ini_options]
addopts = "-q --strict-markers -m 'not slow'"
markers = ["slow: longer than a few seconds"]
""")
    return mutated


def mutmut(work: Path, names: list[str]) -> None:
    """Runs the named mutants."""
    environment = dict(os.environ, OMP_NUM_THREADS="1", MPLBACKEND="agg")
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", "1", *names]
    done = subprocess.run(command, cwd=work, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True)
    if done.returncode:
        raise SystemExit(f"mutmut failed: {done.stdout[-3000:]}")


def all_mutants(work: Path, mutated: list[Path]) -> dict[str, list[str]]:
    """The names of every module's mutants; makes them on the first call."""
    metas = [work / "mutants" / f"{path}.meta" for path in mutated]
    if not all(meta.exists() for meta in metas):
        script = ("from mutmut.__main__ import *\n"
                  "makedirs(Path('mutants'), exist_ok=True); copy_src_dir(); copy_also_copy_files(); "
                  "setup_source_paths(); create_mutants(1)")
        subprocess.run([sys.executable, "-c", script], cwd=work, check=True, stdout=subprocess.DEVNULL)
    return {str(path): list(json.loads(meta.read_text())["exit_code_by_key"])
            for path, meta in zip(mutated, metas, strict=True)}


def outcomes(work: Path, mutated: list[Path]) -> dict[str, dict[str, str]]:
    """What became of every mutant that was ever run, by module."""
    result = {}
    for path in mutated:
        codes = json.loads((work / "mutants" / f"{path}.meta").read_text())["exit_code_by_key"]
        result[str(path)] = {name: OUTCOMES.get(code, f"code {code}") for name, code in codes.items()
                             if code is not None}
    return result


def differences(work: Path, names: list[str]) -> dict[str, str]:
    """The lines that each mutant changes."""
    script = ("import json, sys\nfrom mutmut.mutation.diff_apply import get_diff_for_mutant as show\n"
              "print(json.dumps({name: show(name) for name in json.load(sys.stdin)}))")
    shown = subprocess.run([sys.executable, "-c", script], cwd=work, input=json.dumps(names), capture_output=True,
                           text=True, check=True)
    return {name: "\n".join(line for line in text.splitlines() if line[:1] in ("+", "-") and line[:3] not in (
        "+++", "---")) for name, text in json.loads(shown.stdout).items()}


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("group", choices=GROUPS)
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="of the copy; build/mutation/GROUP by default")
    parser.add_argument("--sample", type=int, metavar="N", help="so many mutants, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these mutants")
    parser.add_argument("--survivors", action="store_true", help="those that survived earlier runs in this folder")
    return parser.parse_args(argv)


def main() -> int:
    args = arguments()
    group = GROUPS[args.group]
    work = (args.work or ROOT / "build" / "mutation" / args.group).resolve()
    mutated = prepare(group, work)
    names = [name for module in all_mutants(work, mutated).values() for name in module]
    if args.only:
        chosen = args.only
    elif args.survivors:
        chosen = [name for module in outcomes(work, mutated).values() for name, outcome in module.items()
                  if outcome in ("survived", "no test")]
    elif args.sample:
        chosen = random.Random(args.seed).sample(names, min(args.sample, len(names)))
    else:
        chosen = names
    mutmut(work, chosen)
    asked = set(chosen)
    left: dict[str, str] = {}
    for module, found in outcomes(work, mutated).items():
        counts = Counter(outcome for name, outcome in found.items() if name in asked)
        print(module, *(f"{number} {outcome}" for outcome, number in sorted(counts.items())), sep=", ")
        left |= {name: outcome for name, outcome in found.items()
                 if name in asked and outcome not in ("killed", "timeout")}
    for name, lines in differences(work, list(left)).items():
        print(f"\n{left[name]}: {name}\n{lines}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
