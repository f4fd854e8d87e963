"""Model files: changed tokens of those that come with xmodal, and ones whose parts are odd."""
from __future__ import annotations

import io
import random
import tokenize
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks.fuzz.harness import Case, WrongError, outcome
from benchmarks.fuzz.mutations import ODD_NUMBERS, ODD_TEXTS, damaged, odd_value, shuffled
from benchmarks.fuzz.runs import MODELS, model_source
from xmodal.config import TrainConfig, load_experiment, parse_override
from xmodal.linear import ClosedForm

EXAMPLES = ("digits_cca", "digits_kcca", "digits_ccal_cont", "digits_ccal_tno", "digits_learned_cont", "emoji_conv",
            "mnist_halves_corrnet")
#: Words that can be put together in any way without doing harm: nothing that opens, starts, deletes or never ends.
WORDS = ("CONFIG", "TrainConfig", "build_model", "build_objective", "VIEWS", "mlp", "CCALayer", "TwoTower", "LinearCCA",
         "PairwiseRanking", "nn", "Sequential", "view1_shape", "view2_shape", "dim_latent", "alpha", "r1", "None",
         "True",
         "0", "1", "-1", "2", "1.5", "1e999", "99999999999", "'auto'", "'\\ud800'", "b'x'", "\"\"", "(", ")", "[", "]",
         "{",
         "}", ",", ":", "=", "==", "+", "-", "*", "/", "%", ".", "@", "->", "...", "def", "class", "return", "lambda",
         "if", "else", "for", "in", "not", "is", "and", "import", "from", "as", "try", "except", "raise", "yield",
         "await",
         "async", "global", "nonlocal", "pass", "with", "assert", "del", "type", "len", "int", "dict", "super", "self",
         "\n", "    ", "\\", "#", "é", "x")
_ENDS = ("def build_objective():\n    return PairwiseRanking()\n", "build_objective = None\n", "build_objective = 3\n",
         "def build_objective():\n    return 3\n", "def build_objective():\n    return None\n", "",
         "def build_objective(*a, **b):\n    raise {error}\n", "build_objective = PairwiseRanking\n",
         "class build_objective:\n    pass\n", "async def build_objective():\n    pass\n")
_ERRORS = ("ValueError('a\\nb')", "SystemExit(3)", "SystemExit", "MemoryError", "RecursionError('x')", "StopIteration",
           "KeyError(())", "Odd()", "OSError(5, 'x')", "UnicodeDecodeError('a', b'b', 0, 1, 'c')", "Warning('w')",
           "Exception('\\ud800')", "ExceptionGroup('g', [ValueError(1)])", "NotImplementedError")
_STARTS = ("", "\ufeff", "# -*- coding: latin-1 -*-\n", "# coding: nothing\n", "\0", "'''\n", "\f", "\r", "\t\n",
           "from __future__ "
           "import annotations\n", "from __future__ import nothing\n", "import nothing_of_that_name\n", "1/0\n",
           "print('said')\n", "raise {error}\n", "del CONFIG\n", "x = " + "(" * 300 + ")" * 300 + "\n",
           "x = " + "-" * 5000 + "1\n", "x = " + "[" * 90 + "]" * 90 + "\n", "x = " + "1+" * 3000 + "1\n",
           "x = " + "9" * 5000
           + "\n", "'''" + "é" * 3000 + "'''\n", "def f(): f()\nf()\n", "yield 1\n", "return\n", "await x\n",
           "x: 3 = 4\n",
           "from . import x\n", "from xmodal import *\n", "VIEWS = {value}\n", "VIEWS = ('a', 'b')\n",
           "from xmodal import nothing\n", "globals().clear()\n", "__getattr__ = 3\n", "if True:\n", "if 1:\n" * 150)


def model_files(folder: Path) -> Case:
    """Changed and made-up model files, loaded, and their functions called."""
    root = Path(__file__).parents[2] / "models"
    texts = [*((root / f"{name}.py").read_text(encoding="utf-8") for name in EXAMPLES), *map(model_source, MODELS)]
    tokens = [_tokens(text) for text in texts]

    def case(rng: random.Random, here: Path) -> str:
        path = here / rng.choice(("model.py", "model.py", "a b.py", "é.py", "x.y.py", "model", "-.py"))
        kind = rng.randrange(10)
        if kind <= 4:
            content = "".join(shuffled(rng, rng.choice(tokens), WORDS)).encode("utf-8", "surrogatepass")
        elif kind == 5:
            content = damaged(rng, rng.choice(texts).encode())
        elif kind == 6:
            text = rng.choice(texts)
            content = rng.choice((text.encode("utf-16"), text.encode("utf-32"), text.replace("\n", "\r\n").encode(),
                                  text.replace("\n", "\r").encode(), b"\xef\xbb\xbf" + text.encode(),
                                  text.encode()[:-1],
                                  text.replace("    ", "\t").encode(), b"\xff" + text.encode(), b"", b"\n" * 100,
                                  ("# -*- coding: utf-16 -*-\n" + text).encode()))
        else:
            content = _made(rng).encode("utf-8", "surrogatepass")
        path.write_bytes(content)
        overrides = None if rng.random() < 0.6 else _overrides(rng)
        return outcome(lambda: _use(path, overrides))

    return case


def _use(path: Path, overrides: dict[str, Any] | None) -> None:
    experiment = load_experiment(path, overrides)
    if not isinstance(experiment.config, TrainConfig) or any(getattr(experiment.config, name) != value
                                                         for name, value in (overrides or {}).items()):
        raise WrongError("CONFIG is not what was asked for")
    model, objective = experiment.build_model((3, 8, 8), (4,)), experiment.build_objective()
    if not isinstance(model, nn.Module | ClosedForm) or not isinstance(objective, nn.Module | None):
        raise WrongError("not a model and an objective")


def _tokens(text: str) -> list[str]:
    """The tokens of a source and what stands between them, so that joined they are the source."""
    parts, lines = [], text.splitlines(keepends=True)
    row, column = 1, 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        while row < token.start[0]:
            parts.append(lines[row - 1][column:])
            row, column = row + 1, 0
        if token.start[1] > column:
            parts.append(lines[row - 1][column:token.start[1]])
        parts.append(token.string)
        row, column = token.end
    return [part for part in parts if part]


def _overrides(rng: random.Random) -> dict[str, Any]:
    names = ("dim_latent", "batch_size", "alpha", "r1", "l2", "clip_norm", "optimizer", "compile", "gamma", "odd", "")
    values = (*ODD_NUMBERS, *ODD_TEXTS, "[]", "{}", "(1,", "auto", "1e3", "None", "[" * 300, "-" * 3000 + "1",
              "9" * 5000,
              "1 if 1 else 2", "{[]: 1}", "{1: [2]}", "f''", "a.b", "x()", "'a' 'b'", "1j", "True")
    return dict(parse_override(f"{rng.choice(names) or 'r2'}={rng.choice(values)}") for _ in range(rng.choice((1, 1,
                                                                                                               2))))


def _made(rng: random.Random) -> str:
    """A model file put together from parts, some of them odd."""
    error = rng.choice(_ERRORS)
    fields = ("dim_latent", "batch_size", "learning_rate", "alpha", "keep", "clip_norm", "decoupled", "max_epochs",
              "odd")
    value = repr(odd_value(rng)).replace("nan", "float('nan')").replace("inf", "float('inf')")
    config = rng.choice((f"CONFIG = TrainConfig({rng.choice(fields)}={value})\n", "CONFIG = TrainConfig()\n",
                         "CONFIG = TrainConfig(32)\n", f"CONFIG = {value}\n", "CONFIG = TrainConfig\n", "",
                         f"CONFIG = TrainConfig(**{{{value!r}: 1}})\n", "CONFIG: int\n",
                         "CONFIG = TrainConfig(alpha=[[]])\n",
                         "CONFIG = TrainConfig(optimizer={}, schedule=[], r1=1j, dim_latent=b'', l2=...)\n",
                         "class C(TrainConfig):\n    pass\nCONFIG = C()\n",
                         "for CONFIG in [TrainConfig()]:\n    pass\n"))
    model = rng.choice(("LinearCCA(2)", "LinearCCA('x')", "mlp(view1_shape, [3], 2)", "None", "3", "LinearCCA",
                        "(yield)",
                        "TwoTower(mlp(view1_shape, [], 2), mlp(view2_shape, [], 2), CCALayer(2))", "[]",
                        "view1_shape[9]",
                        "mlp(view1_shape, [-1], 2)", "mlp(view1_shape, [0], 0)", "mlp((), [], 2)",
                        "mlp(view1_shape, 'ab', 2)",
                        "mlp(view1_shape, [99999999999], 2)", "mlp(view1_shape, [9999999999999999999999], 2)",
                        "TwoTower(None, None, None)", "TwoTower(3)", "CCALayer(99999999)", "nothing", "1/0",
                        "build_model(view1_shape, view2_shape)", "KernelCCA(2, kernel=3)", "nn.Identity()"))
    head = rng.choice(("def build_model(view1_shape, view2_shape):\n", "def build_model(view1_shape, view2_shape):\n",
                       "def build_model(*a, view1_shape=(3,), view2_shape=(4,)):\n", "def build_model():\n",
                       "async def "
                       "build_model(view1_shape, view2_shape):\n",
                       "def build_model(view1_shape, view2_shape, more):\n"))
    odd = "class Odd(Exception):\n    def __str__(self):\n        raise ValueError('no text')\n"
    body = f"    raise {error}\n" if rng.random() < 0.1 else f"    return {model}\n"
    parts = ["from torch import nn\nfrom xmodal import CCALayer, KernelCCA, LinearCCA, PairwiseRanking, TrainConfig, "
             "TwoTower\nfrom xmodal.towers import mlp\n", odd, config, head + body, rng.choice(_ENDS)]
    start = rng.choice(_STARTS) if rng.random() < 0.6 else ""
    parts.insert(rng.choice((0, 0, 1, 3, len(parts))), start)
    return "".join(parts).replace("{error}", error).replace("{value}", value)
