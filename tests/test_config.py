"""TrainConfig's rules, model files with mistakes, and every file in models/ by discovery."""
from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from xmodal.config import _RULES, TrainConfig, field_problems, load_experiment, parse_override
from xmodal.errors import ExperimentError
from xmodal.layers import CCALayer, LearnedProjection
from xmodal.linear import ClosedForm, LinearCCA
from xmodal.networks import TwoTower
from xmodal.objectives.weighted import loss_of

MODELS = sorted((Path(__file__).parent.parent / "models").glob("*.py"))
SHAPES = {"digits": ((32,), (32,)), "mnist_halves": ((392,), (392,)), "mnist_label": ((784,), (10,)),
          "mnist_twins": ((784,), (784,)), "fashion_halves": ((392,), (392,)), "fashion_twins": ((784,), (784,)),
          "audio_score": ((1, 80, 100), (1, 92, 42)), "iapr": ((4096,), (2048,)),
          "emoji_conv": ((3, 64, 64), (64,)), "icons_conv": ((3, 64, 64), (64,)), "emoji": ((160,), (120,)),
          "icons": ((160,), (120,))}
NAN, INF = float("nan"), float("inf")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch.set_num_threads(1)


# -- fields ----------------------------------------------------------------------------------------------------------

WHOLE_FROM_1 = ([1, 7], [0, -1, 1.5, 2.0, True, "3", None])
NOT_NEGATIVE = ([0, 0.0, 1, 1e-3], [-1e-9, NAN, INF, -INF, "0.1", None, True])
VALUES: dict[str, tuple[list, list]] = {       # field: values allowed, values refused
    "dim_latent": WHOLE_FROM_1,
    "batch_size": ([2, 1000], [1, 0, -5, 2.5, True, "100", None]),
    "learning_rate": ([1e-9, 1, 0.1], [0, -0.1, NAN, INF, "fast", None, True]),
    "schedule": (["constant", "cosine"], ["linear", None, 0.5]),
    "optimizer": (["adam", "rmsprop"], ["sgd", "Adam", None, 1]),
    "max_epochs": WHOLE_FROM_1,
    "judge": (["mrr", "loss"], ["accuracy", None, True]),
    "keep": (["best", "last"], ["first", None, True]),
    "patience": WHOLE_FROM_1,
    "refinement_steps": ([0, 3], [-1, 0.5, False, "3", None]),
    "lr_multiplier": ([1e-3, 1, 1.0], [0, 1.01, -0.5, NAN, INF, "0.5", None, True]),
    "refinement_patience": WHOLE_FROM_1,
    "l2": NOT_NEGATIVE,
    "decoupled": ([True, False], [0, 1, "true", None]),
    "clip_norm": ([None, 0.1, 5], [0, -1, NAN, INF, "none", False]),
    "r1": NOT_NEGATIVE,
    "r2": NOT_NEGATIVE,
    "rT": NOT_NEGATIVE,
    "alpha": (["auto", 1, 1.0, 1e-3], [0, 1.1, -0.5, "Auto", NAN, None, True]),
    "weight_tno": ([0, 1, 0.5], [-0.1, 1.1, NAN, "1", None, True]),
    "gamma": NOT_NEGATIVE,
    "precision": (["float32", "bf16"], ["bfloat16", "float16", 32, None]),
    "compile": ([True, False], [0, 1, "true", None]),
}


def test_every_field_has_a_rule_and_is_in_the_table():
    assert {f.name for f in dataclasses.fields(TrainConfig)} == set(_RULES) == set(VALUES)
    assert TrainConfig() == TrainConfig()


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, (allowed, _) in VALUES.items() for v in allowed])
def test_allowed(field, value):
    assert getattr(TrainConfig(**{field: value}), field) == value


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, (_, refused) in VALUES.items() for v in refused])
def test_refused(field, value):
    with pytest.raises(ExperimentError) as caught:
        TrainConfig(**{field: value})
    assert str(caught.value) == f"{field} must be {_RULES[field][1]}, got {value!r}"


def test_all_mistakes_are_reported_together():
    with pytest.raises(ExperimentError) as caught:
        TrainConfig(**{field: refused[0] for field, (_, refused) in VALUES.items()})
    problems = str(caught.value).split("; ")
    assert [p.split(" must be ")[0] for p in problems] == list(VALUES)


def test_decoupled_decay_is_adams_only():
    assert TrainConfig(decoupled=True, optimizer="adam") and TrainConfig(decoupled=False, optimizer="rmsprop")
    with pytest.raises(ExperimentError, match="decoupled weight decay needs optimizer='adam', got 'rmsprop'"):
        TrainConfig(decoupled=True, optimizer="rmsprop")


def test_frozen_and_unknown_fields():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().gamma = 1.0
    assert field_problems({"learning_rat": 1}) == ["unknown field 'learning_rat': did you mean learning_rate?"]
    assert "known: alpha, batch_size" in field_problems({"zzzzzz": 1})[0]


# -- model files -----------------------------------------------------------------------------------------------------

GOOD = '''"""A toy."""
from xmodal import CCALayer, TraceNorm, TrainConfig, TwoTower
from xmodal.towers import mlp

CONFIG = TrainConfig(dim_latent=3, batch_size=10)

def build_model(view1_shape, view2_shape):
    return TwoTower(mlp(view1_shape, [], CONFIG.dim_latent), mlp(view2_shape, [], CONFIG.dim_latent),
                    CCALayer(CONFIG.dim_latent, r1=CONFIG.r1))

def build_objective():
    return TraceNorm(rT=CONFIG.rT)
'''


@pytest.fixture
def model_file(tmp_path):
    def write(text: str | bytes, name: str = "toy.py") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path
    return write


def message_of(path: Path, **arguments) -> str:
    with pytest.raises(ExperimentError) as caught:
        load_experiment(path, **arguments)
    text = str(caught.value)
    assert "\n" not in text and str(path) in text
    return text


def test_a_good_file(model_file):
    experiment = load_experiment(model_file(GOOD))
    assert experiment.name == "toy" and experiment.source == GOOD and experiment.config.batch_size == 10
    assert isinstance(experiment.build_model((5,), (4,)), TwoTower)
    assert load_experiment(model_file(GOOD), name="other").name == "other"


def test_overrides_reach_the_functions_through_config(model_file):
    path = model_file(GOOD)
    experiment = load_experiment(path, {"dim_latent": 5, "r1": 0.5, "rT": 0.25})
    model = experiment.build_model((5,), (4,))
    assert experiment.config == TrainConfig(dim_latent=5, batch_size=10, r1=0.5, rT=0.25)
    assert model.head.dim == 5 and model.head.r1 == 0.5 and experiment.build_objective().rT == 0.25
    assert load_experiment(path).build_model((5,), (4,)).head.dim == 3      # two loads share nothing


def test_all_mistakes_of_a_file_and_of_the_overrides_at_once(model_file):
    path = model_file("""from xmodal import TrainConfig
CONFIG = TrainConfig(batch_size=1, learning_rat=0.1, alpha="fast", gamma=0.1 + 0.2)

def build_model(shape):
    return None
""")
    text = message_of(path, overrides={"patience": 0})
    for expected in ("6 mistakes:", "build_objective is missing; write `def build_objective()`",
                     "line 4: build_model takes the shapes (view1_shape, view2_shape), not 1 argument(s)",
                     "batch_size must be a whole number of at least 2, got 1", "did you mean learning_rate?",
                     "alpha must be 'auto' or a number above 0 and at most 1, got 'fast'",
                     "patience must be a whole number of at least 1, got 0"):
        assert expected in text


def test_an_empty_file_misses_all_three(model_file):
    text = message_of(model_file(""))
    assert "3 mistakes" in text and all(name in text for name in ("CONFIG", "build_model", "build_objective"))


@pytest.mark.parametrize(("signature", "wrong"), [
    ("build_model(a, b)", False), ("build_model(a, b, /)", False), ("build_model(a, b, c=1)", False),
    ("build_model(*shapes)", False), ("build_model(a, *rest)", False), ("build_model(a, b, c)", True),
    ("build_model()", True), ("build_model(a, b, c, *rest)", True)])
def test_arguments_of_build_model(model_file, signature, wrong):
    path = model_file(GOOD.replace("build_model(view1_shape, view2_shape)", signature))
    if wrong:
        assert "build_model takes the shapes" in message_of(path)
    else:
        load_experiment(path)


def test_methods_and_inner_functions_may_be_called_the_same(model_file):
    load_experiment(model_file(GOOD + "\nclass Maker:\n    def build_model(self):\n        pass\n"))


@pytest.mark.parametrize("text", ["def build_model(:\n", "CONFIG = (\n", "x = 1\n  y = 2\n"])
def test_syntax_errors_name_the_line(model_file, text):
    assert "1 mistake: line " in message_of(model_file(text))


@pytest.mark.parametrize(("line", "expected"), [
    ("1 / 0", "line 2: ZeroDivisionError: division by zero"),
    ("import no_such_module", "line 2: ModuleNotFoundError: No module named 'no_such_module'"),
    ("from xmodal import NoSuchThing", "line 2: ImportError: cannot import name 'NoSuchThing'"),
    ("raise SystemExit(3)", "line 2: SystemExit: 3"),
    ("from xmodal import TrainConfig; TrainConfig(**dict(gamma=-1))", "line 2: gamma must be a number of at least 0"),
])
def test_exceptions_while_it_runs_name_the_line(model_file, line, expected):
    assert expected in message_of(model_file(GOOD.replace('"""A toy."""\n', f'"""A toy."""\n{line}\n')))


def test_missing_file_offers_close_names(model_file):
    path = model_file(GOOD, "digits_ccal_cont.py")
    text = message_of(path.with_name("digits_ccal_con.py"))
    assert "cannot read the model file" in text and "No such file" in text
    assert "digits_ccal_cont.py?" in text
    assert "cannot read" in message_of(path.parent / "no" / "such" / "folder.py")
    assert "cannot read" in message_of(path.parent)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00PK\x03", bytes(range(128, 256))])
def test_not_text(model_file, content):
    assert "is not a text file" in message_of(model_file(content))


def test_null_bytes(model_file):
    assert "1 mistake: source code string cannot contain null bytes" in message_of(model_file(b"x = 1\x00\n"))


@pytest.mark.parametrize("line", ["x = " + "-" * 20_000 + "1", "TrainConfig(l2=" + "-" * 5000 + "1)"])
def test_deep_nesting(model_file, line):
    assert "nested" in message_of(model_file(f"{line}\n{GOOD}")) or "recursion" in message_of(model_file(line))


def test_what_is_taken_back_is_missing(model_file):
    assert "1 mistake: build_objective is missing; write " in message_of(model_file(GOOD + "\ndel build_objective\n"))
    assert "1 mistake: CONFIG is missing; write `CONFIG = " in message_of(model_file(GOOD + "\ndel CONFIG\n"))
    load_experiment(model_file(GOOD + "\n__getattr__ = 3\n"))


def test_a_star_may_bring_what_is_needed_and_what_it_does_not_bring_is_missing(model_file):
    text = GOOD.replace("import CCALayer, TraceNorm, TrainConfig, TwoTower", "import *")
    load_experiment(model_file(text))
    without = text.partition("def build_objective")[0]
    assert "1 mistake: build_objective is missing; write `def build_objective()`" in message_of(model_file(without))


def test_an_objective_that_is_a_function_is_told_what_it_should_be(model_file):
    path = model_file(GOOD.replace("return TraceNorm(rT=CONFIG.rT)", "return lambda embedded, pairs: CONFIG.rT"))
    with pytest.raises(ExperimentError, match=r"must return a torch.nn.Module whose forward takes \(Embedded, pairs\), "
                                              "got function"):
        load_experiment(path).build_objective()


def test_a_name_with_a_null_byte():
    assert "cannot read the model file" in message_of(Path("a\0.py"))


def test_an_error_whose_text_fails(model_file):
    text = "class Odd(Exception):\n    def __str__(self):\n        return self.nothing\nraise Odd\n"
    assert "line 4: Odd: an error without a text" in message_of(model_file(text + GOOD.partition("\n")[2]))


def test_config_and_functions_of_the_wrong_type(model_file):
    path = model_file("CONFIG = {'batch_size': 3}\nbuild_model = 3\nbuild_objective = 'x'\n")
    text = message_of(path)
    assert "CONFIG must be a TrainConfig, got dict" in text
    assert "build_model must be a function, got int" in text and "build_objective must be a function" in text


def test_files_may_define_dataclasses(model_file):
    """``@dataclass`` with postponed annotations looks its module up in sys.modules."""
    load_experiment(model_file('from __future__ import annotations\n'
                               'from dataclasses import dataclass, KW_ONLY\n\n'
                               '@dataclass\nclass Sizes:\n    _: KW_ONLY\n    a: int = 1\n' +
                               GOOD.replace('"""A toy."""\n', "")))


def test_values_that_are_no_literals_are_checked_when_the_file_runs(model_file):
    assert "gamma must be" in message_of(model_file(GOOD.replace("batch_size=10", "gamma=-1 * 2.5")))
    assert "alpha must be" in message_of(model_file(GOOD.replace("batch_size=10", "alpha={(): 1}")))
    assert "TypeError" in message_of(model_file(GOOD.replace("batch_size=10", "alpha={[]: 1}")))


@pytest.mark.parametrize(("text", "expected"), [
    ("learning_rate=1e-2", ("learning_rate", 0.01)), ("alpha=auto", ("alpha", "auto")),
    ("alpha='auto'", ("alpha", "auto")),
    ("clip_norm=None", ("clip_norm", None)), ("decoupled=True", ("decoupled", True)), (" l2 = 3 ", ("l2", 3)),
    ("a=b=c", ("a", "b=c")), ("l2=", ("l2", "")), ("l2=-1", ("l2", -1)), ("l2={[]: 1}", ("l2", "{[]: 1}")),
    ("l2=(", ("l2", "(")), ("l2=" + "-" * 9999 + "1", ("l2", "-" * 9999 + "1"))])
def test_parse_override(text, expected):
    assert parse_override(text) == expected


@pytest.mark.parametrize("text", ["", "l2", "=3", " =3"])
def test_parse_override_needs_both_sides(text):
    with pytest.raises(ExperimentError, match="--set needs field=value"):
        parse_override(text)


CLOSED = '''"""A toy."""
from xmodal import LinearCCA, TrainConfig

CONFIG = TrainConfig(dim_latent=3)

def build_model(view1_shape, view2_shape):
    return LinearCCA(CONFIG.dim_latent, r1=CONFIG.r1)

build_objective = None
'''


def test_a_closed_form_has_no_objective_and_says_so(model_file):
    path = model_file(CLOSED)
    experiment = load_experiment(path, {"r1": 0.5})
    assert experiment.build_objective() is None
    model = experiment.build_model((5,), (4,))
    assert isinstance(model, LinearCCA) and (model.n_components, model.r1) == (3, 0.5)
    assert "build_objective is missing" in message_of(model_file(CLOSED.replace("build_objective = None", "")))
    wrong = load_experiment(model_file(CLOSED.replace("return LinearCCA", "return (lambda *a, **k: 3)")))
    with pytest.raises(ExperimentError, match=r"an estimator of xmodal\.linear, got int"):
        wrong.build_model((5,), (4,))


@pytest.mark.parametrize("field", ["learning_rate", "batch_size", "max_epochs", "precision", "gamma"])
def test_what_a_closed_form_does_not_read_can_not_be_set(model_file, field):
    value = {"precision": "bf16"}.get(field, 2)
    assert f"{field} has no effect: nothing in the file reads CONFIG.{field}" in message_of(model_file(CLOSED),
                                                                                          overrides={field: value})


# -- every experiment in models/ -------------------------------------------------------------------------------------

def shapes_of(path: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return next((shapes for data, shapes in SHAPES.items() if path.stem.startswith(data)), ((32,), (24,)))


def test_discovery_found_the_experiments():
    names = {path.stem for path in MODELS}
    assert len(names) >= 42 and len(TRAINED) >= 31
    assert names >= {f"{data}_{kind}" for data in ("digits", "mnist_halves", "audio_score", "iapr")
                     for kind in ("ccal_tno", "learned_cont", "ccal_cont")}
    assert {path.stem for path in CLOSED_FORM} >= {"digits_cca", "digits_kcca", "mnist_halves_cca", "mnist_halves_kcca"}


CLOSED_FORM = [path for path in MODELS if "build_objective = None" in path.read_text(encoding="utf-8")]
TRAINED = [path for path in MODELS if path not in CLOSED_FORM]
every_model = pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
every_trained = pytest.mark.parametrize("path", TRAINED, ids=lambda path: path.stem)
every_closed_form = pytest.mark.parametrize("path", CLOSED_FORM, ids=lambda path: path.stem)


@every_model
def test_experiment_is_short_and_self_contained(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) < 40
    tree = ast.parse(source)
    assert ast.get_docstring(tree)
    imported = [name for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)
                for name in ([node.module or "."] if isinstance(node, ast.ImportFrom) else
                             [alias.name for alias in node.names])]
    siblings = {other.stem for other in MODELS} | {"models"}
    assert not {part for name in imported for part in name.split(".")} & siblings
    assert not any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree))


@pytest.mark.filterwarnings("ignore:CCALayer")      # a small batch will do here
@every_trained
def test_experiment_takes_a_finite_step_and_comes_back_from_its_weights(path):
    experiment = load_experiment(path)
    shapes, dim = shapes_of(path), experiment.config.dim_latent
    torch.manual_seed(0)
    model, objective = experiment.build_model(*shapes), experiment.build_objective()
    x, y = (torch.rand(2 * dim, *shape) for shape in shapes)
    if experiment.views is not None and "codes" in experiment.views[1]:  # texts, as bytes
        y = (256 * y).floor()
    optimizer = torch.optim.Adam(model.parameters(), lr=experiment.config.learning_rate)
    model.refit([(x, y)], train_mode=True)
    embedded = model.train()(x, y)
    assert embedded.view1.shape == embedded.view2.shape == (len(x), dim)
    loss = loss_of(objective, embedded, None, torch.arange(len(x)) % 10)
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss) and all(p.grad is not None and torch.isfinite(p.grad).all()
                                        and torch.isfinite(p).all() for p in model.parameters())
    model.eval()
    with torch.no_grad():
        z1, z2 = model.embed_view1(x[:7]), model.embed_view2(y[:7])
        assert torch.equal(model.embed_view1(x[:7]), z1) and torch.equal(model.embed_view2(y[:7]), z2)
        again = experiment.build_model(*shapes).eval()
        again.load_state_dict(model.state_dict())
        assert torch.equal(again.embed_view1(x[:7]), z1) and torch.equal(again.embed_view2(y[:7]), z2)
    assert z1.shape == z2.shape == (7, dim) and torch.isfinite(z1).all() and torch.isfinite(z2).all()


@every_trained
def test_experiment_obeys_overrides(path):
    model = load_experiment(path, {"dim_latent": 6}).build_model(*shapes_of(path))
    assert model.eval().embed_view1(torch.rand(2, *shapes_of(path)[0])).shape == (2, 6)


@pytest.mark.filterwarnings("ignore:view")      # of 60 pairs for more columns
@every_closed_form
def test_closed_form_experiment_fits_obeys_overrides_and_comes_back_from_its_weights(path):
    experiment = load_experiment(path, {"dim_latent": 6, "r1": 0.05})
    assert experiment.build_objective() is None
    shapes = shapes_of(path)
    model = experiment.build_model(*shapes)
    assert isinstance(model, ClosedForm) and model.r1 == 0.05
    x, y = (torch.rand(60, *shape) for shape in shapes)
    z1, z2 = model.fit_batches([(x, y)]).embed_view1(x[:7]), model.embed_view2(y[:7])
    assert z1.shape == z2.shape == (7, 6) and torch.isfinite(z1).all() and torch.isfinite(z2).all()
    again = experiment.build_model(*shapes)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.embed_view1(x[:7]), z1) and torch.equal(again.embed_view2(y[:7]), z2)


@pytest.mark.parametrize("kind", ["ccal_tno", "learned_cont", "ccal_cont"])
def test_iapr_experiments_have_the_published_settings(kind):
    """Dorfer et al. 2018: section 5 and the published code."""
    experiment = load_experiment(next(path for path in MODELS if path.stem == f"iapr_{kind}"))
    c = experiment.config
    assert (c.dim_latent, c.batch_size, c.learning_rate, c.patience, c.refinement_steps, c.lr_multiplier, c.l2, c.r1,
            c.r2, c.rT, c.alpha, c.gamma) == (128, 1000, 1e-3, 15, 3, 0.1, 1e-4, 1e-3, 1e-3, 1e-3, 1.0, 0.5)
    model = experiment.build_model(*SHAPES["iapr"])
    assert [m.weight.shape for m in model.tower1.modules() if isinstance(m, torch.nn.Linear)] == [(128, 4096)]
    assert [tuple(m.weight.shape) for m in model.tower2.modules() if isinstance(m, torch.nn.Linear)] == [
        (1024, 2048), (1024, 1024), (128, 1024)]


@pytest.mark.parametrize("kind", ["ccal_tno", "learned_cont", "ccal_cont"])
def test_audio_score_experiments_have_the_published_settings(kind):
    """Dorfer et al. 2018: the sheet halved, four blocks of two convolutions for either view, and a narrow space."""
    experiment = load_experiment(next(path for path in MODELS if path.stem == f"audio_score_{kind}"))
    config = experiment.config
    assert (config.dim_latent, config.batch_size, config.learning_rate, config.patience) == (32, 100, 2e-3, 30)
    assert (config.refinement_steps, config.lr_multiplier, config.l2, config.alpha) == (3, 0.5, 1e-5, 1.0)
    assert kind == "ccal_tno" or config.gamma == 0.5
    model = experiment.build_model(*SHAPES["audio_score"])
    assert isinstance(model.head, LearnedProjection if kind == "learned_cont" else CCALayer)
    for tower in (model.tower1, model.tower2):
        layers = list(tower.modules())
        convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
        assert [layer.out_channels for layer in convolutions] == [24, 24, 48, 48, 96, 96, 96, 96, 32]
        assert [layer.kernel_size for layer in convolutions] == [(3, 3)] * 8 + [(1, 1)]
        assert sum(isinstance(layer, nn.BatchNorm2d) for layer in layers) == 9
        assert sum(isinstance(layer, nn.ELU) for layer in layers) == 8
        assert sum(isinstance(layer, nn.MaxPool2d) for layer in layers) == 4
    assert model.tower1[:2](torch.rand(3, 1, 80, 100)).shape == (3, 1, 40, 50)
