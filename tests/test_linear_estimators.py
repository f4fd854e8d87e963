"""The closed-form methods as scikit-learn estimators, as models with a state, and whatever they are given to read."""
from __future__ import annotations

import io
import pickle
import warnings

import h5py
import joblib
import numpy as np
import pytest
import safetensors.torch
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import (
    check_get_params_invariance,
    check_no_attributes_set_in_init,
    check_parameters_default_constructible,
    check_set_params,
    parametrize_with_checks,
)

from xmodal.errors import CheckpointError, DataError, NumericalError
from xmodal.linear import PLS, ClosedForm, Identity, KernelCCA, LinearCCA
from xmodal.metrics import retrieval_metrics

# Few pairs are warned of; tests/test_linear.py has the tests of that.
pytestmark = [pytest.mark.filterwarnings("ignore:view[12]. :UserWarning"),
              pytest.mark.filterwarnings("ignore:X does not have valid feature names")]

ESTIMATORS = [
    LinearCCA(2), PLS(2), Identity(),
    KernelCCA(2, random_state=0), KernelCCA(2, ("rbf", "linear"), gamma=0.05, random_state=0),
    KernelCCA(2, "poly", degree=2, random_state=0), KernelCCA(2, "linear"),
    KernelCCA(2, approximation="nystroem", n_features=20, random_state=0),
    KernelCCA(2, approximation="fourier", n_features=31, random_state=0, regularisation="bach_jordan"),
]


def views(n: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers from 0 to 120, which every dtype can hold; 4 columns each."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 100, size=(n, 4))
    return x, x @ [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]] + rng.integers(0, 20, size=(n, 4))


# -- scikit-learn's own checks ---------------------------------------------------------------------------------------

KEYWORD = {"check_n_features_in_after_fitting": "it passes y by keyword to score, where ours is Y"}


@parametrize_with_checks(
    [LinearCCA(1), PLS(1), KernelCCA(1, random_state=0),
     KernelCCA(1, approximation="nystroem", n_features=20, random_state=0)],
    expected_failed_checks=lambda estimator: KEYWORD)
def test_scikit_learns_checks(estimator, check, monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")      # without it the check of array API dispatch is skipped
    check(estimator)


@pytest.mark.parametrize("check", [
    check_get_params_invariance, check_no_attributes_set_in_init, check_parameters_default_constructible,
    check_set_params])
def test_scikit_learns_checks_that_suit_identity(check):
    """The others give it a view 2 of one column."""
    check("Identity", Identity())


@pytest.mark.parametrize("model", ESTIMATORS, ids=str)
def test_cloning_keeps_parameters_and_forgets_the_fit(model):
    x, y = views()
    fitted = clone(model).fit(x, y)
    copy = clone(fitted)
    assert repr(copy) == repr(fitted) == repr(model) and copy.get_params() == model.get_params()
    with pytest.raises(NotFittedError):
        copy.transform(x)


@pytest.mark.parametrize("model", ESTIMATORS, ids=str)
def test_pickled_and_dumped_it_is_the_same(model, tmp_path):
    x, y = views()
    fitted = clone(model).fit(x, y)
    joblib.dump(fitted, tmp_path / "model.joblib")
    for copy in (pickle.loads(pickle.dumps(fitted)), joblib.load(tmp_path / "model.joblib")):
        np.testing.assert_array_equal(copy.transform(x), fitted.transform(x))
        np.testing.assert_array_equal(copy.transform_view2(y), fitted.transform_view2(y))
        assert copy.n_pairs_ == 60 and copy.score(x, y) == fitted.score(x, y)


@pytest.mark.parametrize("model", ESTIMATORS, ids=str)
def test_fit_transform_is_fit_and_transform_of_view_1(model):
    x, y = views()
    fitted = clone(model).fit(x, y)
    np.testing.assert_array_equal(clone(model).fit_transform(x, y), fitted.transform(x))
    z1, z2 = fitted.transform(x, y)
    np.testing.assert_array_equal(z1, fitted.transform(x))
    np.testing.assert_array_equal(z2, fitted.transform_view2(y))


@pytest.mark.parametrize("model", ESTIMATORS, ids=str)
def test_arguments_are_left_alone(model):
    x, y = views()
    x, y = x.astype(np.float64), y.astype(np.float64)
    x2, y2 = x.copy(), y.copy()
    clone(model).fit(x, y).score(x, y)
    np.testing.assert_array_equal(x, x2)
    np.testing.assert_array_equal(y, y2)


def test_names_of_features_out():
    x, y = views()
    assert LinearCCA(2).fit(x, y).get_feature_names_out().tolist() == ["linearcca0", "linearcca1"]
    assert PLS(1).fit(x, y).get_feature_names_out().tolist() == ["pls0"]
    assert KernelCCA(1, random_state=0).fit(x, y).get_feature_names_out().tolist() == ["kernelcca0"]
    assert Identity().fit(x, y).get_feature_names_out().tolist() == [f"identity{i}" for i in range(4)]
    with pytest.raises(NotFittedError):
        LinearCCA().get_feature_names_out()


def test_in_a_pipeline_by_hand():
    x, y = views()
    pipeline = make_pipeline(StandardScaler(), LinearCCA(2)).fit(x[:40], y[:40])
    scaler = StandardScaler().fit(x[:40])
    model = LinearCCA(2).fit(scaler.transform(x[:40]), y[:40])
    np.testing.assert_allclose(pipeline.transform(x), model.transform(scaler.transform(x)), atol=1e-12)
    assert pipeline.score(x[40:], y[40:]) == pytest.approx(model.score(scaler.transform(x[40:]), y[40:]))
    assert pipeline.get_feature_names_out().tolist() == ["linearcca0", "linearcca1"]


@pytest.mark.parametrize("model", [LinearCCA(2), PLS(1), KernelCCA(2, random_state=0)], ids=str)
def test_before_a_regression_by_hand(model):
    """A pipeline gives its y to every step: the regression's target, one column or several, is view 2."""
    x, y = views()
    for target in (y, y[:, 0]):
        step = clone(model).set_params(n_components=1 if target.ndim == 1 else model.n_components)
        pipeline = make_pipeline(StandardScaler(), step, Ridge()).fit(x[:40], target[:40])
        scaled = StandardScaler().fit(x[:40]).transform(x)
        z = clone(step).fit(scaled[:40], target[:40]).transform(scaled)
        expected = Ridge().fit(z[:40], target[:40]).predict(z[40:])
        np.testing.assert_allclose(pipeline.predict(x[40:]), expected, atol=1e-8)


def test_grid_search_by_hand():
    x, y = views()
    folds, grid = KFold(3), {"r1": [1e-3, 1.0, 100.0], "n_components": [1, 2]}
    search = GridSearchCV(LinearCCA(), grid, cv=folds).fit(x, y)
    scores = {}
    for k in grid["n_components"]:
        for r1 in grid["r1"]:
            scores[k, r1] = np.mean([LinearCCA(k, r1).fit(x[a], y[a]).score(x[b], y[b]) for a, b in folds.split(x)])
    actual = {(p["n_components"], p["r1"]): score for p, score in
              zip(search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True)}
    assert actual == pytest.approx(scores)
    best = max(scores, key=scores.get)
    assert (search.best_params_["n_components"], search.best_params_["r1"]) == best
    assert search.score(x, y) == LinearCCA(*best).fit(x, y).score(x, y)
    pipeline = GridSearchCV(make_pipeline(StandardScaler(), PLS()), {"pls__n_components": [1, 2]}, cv=3).fit(x, y)
    assert pipeline.best_params_ == {"pls__n_components": 2}
    assert len(cross_val_score(KernelCCA(1, random_state=0), x, y, cv=3)) == 3


# -- what can be read ------------------------------------------------------------------------------------------------

def in_hdf5(a, folder, **options):
    return h5py.File(folder / f"{len(list(folder.iterdir()))}.h5", "w").create_dataset("view", data=a, **options)


def in_memmap(a, folder):
    path = folder / f"{len(list(folder.iterdir()))}.npy"
    np.save(path, a)
    return np.load(path, mmap_mode="r")


def read_only(a):
    a = a.astype(np.float64)
    a.flags.writeable = False
    return a


def in_record(a):
    """A field of a structured array: its rows are not a whole number of values apart."""
    record = np.zeros(len(a), dtype=[("tag", "i1"), ("values", "f8", a.shape[1:])])
    record["values"] = a
    return record["values"]


KINDS = {
    "list": lambda a, _: a.tolist(),
    **{name: lambda a, _, name=name: a.astype(name) for name in (
        "float16", "float32", "float64", "longdouble", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32",
        "uint64", ">f2", ">f4", ">f8", ">i2", ">i4", ">u2", "object")},
    "negative strides": lambda a, _: a[::-1, ::-1].copy()[::-1, ::-1],
    "every other": lambda a, _: np.repeat(np.repeat(a, 2, axis=0), 3, axis=1)[::2, ::3],
    "Fortran order": lambda a, _: np.asfortranarray(a.astype(np.float64)),
    "read-only": lambda a, _: read_only(a),
    "of a record": lambda a, _: in_record(a),
    "memory map": in_memmap,
    "memory map of float16": lambda a, folder: in_memmap(a.astype(np.float16), folder),
    "HDF5": in_hdf5,
    "HDF5 of big-endian float32": lambda a, folder: in_hdf5(a.astype(">f4"), folder),
    "HDF5 of uint16": lambda a, folder: in_hdf5(a.astype(np.uint16), folder),
    "compressed HDF5": lambda a, folder: in_hdf5(a, folder, chunks=(2, 3), compression="gzip"),
    **{str(dtype): lambda a, _, dtype=dtype: torch.from_numpy(a).to(dtype) for dtype in (
        torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int16, torch.uint8)},
    "transposed tensor": lambda a, _: torch.from_numpy(a.T.copy()).T,
    "tensor with a gradient": lambda a, _: torch.from_numpy(a).double().requires_grad_(),
    "parameter": lambda a, _: torch.nn.Parameter(torch.from_numpy(a).float()),
    "data frame": lambda a, _: pytest.importorskip("pandas").DataFrame(a, columns=list("abcd")),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [60, 3], ids=["many", "few"])
def test_every_kind_of_array_is_the_same(kind, n, tmp_path):
    x, y = views(n)
    # ">f2" and the like: what is big-endian here is not native on any machine that we know
    convert = lambda a: KINDS[kind](a, tmp_path)  # noqa: E731
    for model in (LinearCCA(2), PLS(2), Identity(), KernelCCA(2, gamma=1e-4, random_state=0)):
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)
            expected, actual = clone(model).fit(x, y), clone(model).fit(convert(x), convert(y))
            stream = None if isinstance(model, KernelCCA) else clone(model).partial_fit(convert(x), convert(y))
        for fitted in (actual, stream):
            if fitted is not None:
                np.testing.assert_allclose(fitted.transform(x), expected.transform(x), atol=1e-9)
                np.testing.assert_allclose(fitted.transform_view2(convert(y)), expected.transform_view2(y), atol=1e-9)
                assert fitted.score(convert(x), convert(y)) == pytest.approx(expected.score(x, y), abs=1e-9)
        z1, z2 = actual.transform(convert(x), convert(y))
        np.testing.assert_allclose(z1, expected.transform(x), atol=1e-9)
        assert z1.dtype == z2.dtype == np.float64 and isinstance(z1, np.ndarray)


@pytest.mark.parametrize("kind", ["float64", "memory map", "HDF5", "compressed HDF5", "torch.float32", "data frame",
                                  ">f4"])
def test_every_kind_of_array_with_a_pair_table(kind, tmp_path):
    """Rows far apart, in no order, some several times, some never."""
    x, y = views()
    pairs = np.random.default_rng(0).integers(0, 60, size=(50, 2))
    expected = LinearCCA(2).fit(x, y, pairs=pairs)
    for table in (pairs, pairs.tolist(), torch.from_numpy(pairs), pairs.astype(np.int32)):
        actual = LinearCCA(2).fit(KINDS[kind](x, tmp_path), KINDS[kind](y, tmp_path), pairs=table)
        np.testing.assert_allclose(actual.transform(x), expected.transform(x), atol=1e-9)
        np.testing.assert_allclose(actual.correlations_, expected.correlations_, rtol=0, atol=1e-9)


def test_true_and_false_are_one_and_zero(tmp_path):
    x, y = (view > 50 for view in views())
    expected = LinearCCA().fit(x.astype(float), y.astype(float))
    for a, b in ((x, y), (in_hdf5(x, tmp_path), in_hdf5(y, tmp_path)), (x.tolist(), y.tolist()),
                 (torch.from_numpy(x), torch.from_numpy(y))):
        model = LinearCCA().fit(a, b)
        np.testing.assert_allclose(model.correlations_, expected.correlations_, rtol=0, atol=1e-12)
        np.testing.assert_allclose(model.transform(a), expected.transform(x), atol=1e-12)


def test_rows_that_are_one_row():
    x, y = views()
    repeated = np.broadcast_to(x[:1].astype(float), x.shape)       # strides of 0
    with pytest.warns(UserWarning, match="view1: 4 columns"):
        np.testing.assert_allclose(LinearCCA().fit(repeated, y).correlations_, 0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["list", "float32", "memory map", "HDF5", "torch.float32", "data frame"])
def test_view_2_of_one_dimension_is_one_column(kind, tmp_path):
    x, y = views()
    expected = LinearCCA().fit(x, y[:, :1])
    column = pytest.importorskip("pandas").Series(y[:, 0]) if kind == "data frame" else KINDS[kind](y[:, 0], tmp_path)
    model = LinearCCA().fit(x, column)
    np.testing.assert_allclose(model.transform(x), expected.transform(x), atol=1e-12)
    np.testing.assert_allclose(model.transform_view2(column), expected.transform_view2(y[:, :1]), atol=1e-12)
    assert model.score(x, column) == pytest.approx(expected.score(x, y[:, :1]))
    assert LinearCCA().partial_fit(x, column).correlations_ == pytest.approx(expected.correlations_)


def test_data_frames_have_names():
    pandas = pytest.importorskip("pandas")
    x, y = views()
    frame = pandas.DataFrame(x, columns=list("abcd"), index=np.arange(60) + 100)
    model = LinearCCA(2).set_output(transform="pandas").fit(frame, pandas.DataFrame(y))
    assert model.feature_names_in_.tolist() == list("abcd")
    out = model.transform(frame)
    assert isinstance(out, pandas.DataFrame) and out.columns.tolist() == ["linearcca0", "linearcca1"]
    assert out.index.tolist() == frame.index.tolist()
    np.testing.assert_array_equal(out, LinearCCA(2).fit(x, y).transform(x))
    assert model.score(frame, y) == LinearCCA(2).fit(x, y).score(x, y)
    with pytest.raises(ValueError, match="feature names"):
        model.transform(frame[["b", "a", "c", "d"]])


# -- what can't --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["float64", "float32", "float16", "memory map", "HDF5", "torch.float32", "list"])
def test_values_that_are_not_finite_are_found(bad, kind, tmp_path):
    x, y = (view.astype(np.float64) for view in views())
    x2, y2 = x.copy(), y.copy()
    x2[17, 2] = y2[41, 0] = bad
    convert = lambda a: KINDS[kind](a, tmp_path)  # noqa: E731
    fitted = LinearCCA().fit(x, y)
    x, y, x2, y2 = map(convert, (x, y, x2, y2))
    for use in (lambda: LinearCCA().fit(x2, y), lambda: LinearCCA().partial_fit(x2, y), lambda: fitted.transform(x2),
                lambda: LinearCCA().partial_fit(x2), lambda: fitted.score(x2, y), lambda: PLS().fit(x2, y),
                lambda: KernelCCA(random_state=0).fit(x2, y), lambda: Identity().fit(x2, y)):
        with pytest.raises(DataError, match=r"^X has NaN or infinite values in 1 row of 60 \(row 17\)"):
            use()
    for use in (lambda: LinearCCA().fit(x, y2), lambda: LinearCCA().partial_fit(x, y2),
                lambda: fitted.transform_view2(y2), lambda: LinearCCA().partial_fit(Y=y2),
                lambda: LinearCCA().fit(x, y2, pairs=np.stack([np.arange(30)] * 2, axis=1)),
                lambda: KernelCCA(random_state=0).fit(x, y2), lambda: Identity().fit(x, y2)):
        with pytest.raises(DataError, match=r"^Y has NaN or infinite values in 1 row of \d+ \(row 41\)"):
            use()


def test_values_that_are_not_finite_in_batches_are_found():
    x, y = (torch.from_numpy(view).double() for view in views())
    bad = x.clone()
    bad[3, 1] = float("nan")
    for model in (LinearCCA(), PLS(), Identity(), KernelCCA(approximation="fourier", n_features=10)):
        with pytest.raises(DataError, match=r"^view1 of batch 2 has NaN .* \(row 3\)"):
            clone(model).fit_batches([(x, y), (bad, y)])
        with pytest.raises(DataError, match=r"^view2 of batch 1 has NaN .* \(row 3\)"):
            clone(model).fit_batches([(x, bad), (x, y)])


@pytest.mark.parametrize("model", [LinearCCA(), PLS(), KernelCCA(approximation="fourier", n_features=10)], ids=str)
def test_values_that_are_not_finite_in_batches_of_items_alone_are_found(model):
    x, y = (torch.from_numpy(view).double() for view in views())
    bad = x.clone()
    bad[3, 1] = float("nan")
    for lone in ({"lone1": [x, bad]}, {"lone2": [y, bad]}):
        with pytest.raises(DataError, match="has NaN or infinite values"):
            clone(model).fit_batches([(x, y)], **lone)


X, Y = (view.astype(float) for view in views())
TABLE = np.stack([np.arange(20)] * 2, axis=1)
WRONG = {
    "no view 2": (lambda: LinearCCA().fit(X), DataError, "LinearCCA requires y .* view 2 takes its place"),
    "unequal lengths": (lambda: LinearCCA().fit(X, Y[:9]), DataError, "view 1 has 60 items and view 2 has 9"),
    "unequal lengths to add": (lambda: LinearCCA().partial_fit(X, Y[:9]), DataError, "60 items and view 2 has 9"),
    "unequal lengths to score": (lambda: LinearCCA().fit(X, Y).score(X, Y[:9]), DataError, "got 60 and 9"),
    "one pair": (lambda: LinearCCA().fit(X[:1], Y[:1]), ValueError, "minimum of 2 is required"),
    "one pair so far": (lambda: LinearCCA().partial_fit(X[:1], Y[:1]).transform(X), DataError,
                        "at least two pairs, got 1"),
    "one pair of a table": (lambda: LinearCCA().fit(X, Y, pairs=[[3, 4]]), DataError, "at least two pairs, got 1"),
    "one pair in a tensor": (lambda: LinearCCA().fit(torch.ones(1, 2), torch.ones(1, 2)), DataError,
                             "X must have at least 2 items; got 1"),
    "items alone only": (lambda: LinearCCA().partial_fit(X).partial_fit(Y=Y).correlations_, DataError,
                         "at least two pairs, got 0"),
    "nothing to add": (lambda: LinearCCA().partial_fit(), DataError, "needs X, Y or both"),
    "empty table": (lambda: LinearCCA().fit(X, Y, pairs=np.zeros((0, 2), int)), DataError, "at least one row"),
    "table out of range": (lambda: LinearCCA().fit(X, Y, pairs=TABLE + 50), DataError, "column 0 holds 50 to 69"),
    "negative table": (lambda: LinearCCA().fit(X, Y, pairs=TABLE - 1), DataError, "holds -1 to 18"),
    "table of floats": (lambda: LinearCCA().fit(X, Y, pairs=TABLE / 2), DataError, "expected integers"),
    "table of three": (lambda: LinearCCA().fit(X, Y, pairs=np.zeros((4, 3), int)), DataError, r"array \(m, 2\)"),
    "narrower to transform": (lambda: LinearCCA().fit(X, Y).transform(X[:, 1:]), ValueError,
                              "X has 3 features, but LinearCCA is expecting 4"),
    "narrower tensor": (lambda: LinearCCA().fit(X, Y).transform(torch.ones(5, 3)), DataError,
                        "X has 3 features, but LinearCCA is expecting 4"),
    "wider view 2": (lambda: LinearCCA().fit(X, Y).transform_view2(np.ones((5, 6))), DataError,
                     "Y has 6 features, but LinearCCA is expecting 4"),
    "wider view 2 to score": (lambda: LinearCCA().fit(X, Y).score(X, np.ones((60, 6))), DataError, "Y has 6 features"),
    "narrower to add": (lambda: LinearCCA().fit(X, Y).partial_fit(X[:, 1:], Y), ValueError, "X has 3 features"),
    "narrower view 2 to add": (lambda: LinearCCA().fit(X, Y).partial_fit(X, Y[:, 1:]), DataError, "Y has 3 features"),
    "narrower alone": (lambda: LinearCCA().fit(X, Y).partial_fit(Y=Y[:, 1:]), DataError, "Y has 3 features"),
    "three dimensions": (lambda: LinearCCA().fit(X[:, :, None], Y), ValueError, "dim 3"),
    "three dimensions of a tensor": (lambda: LinearCCA().fit(torch.ones(9, 2, 2), Y), DataError,
                                     "X must have two dimensions"),
    "three dimensions of view 2": (lambda: LinearCCA().fit(X, Y[:, :, None]), ValueError, "dim 3"),
    "one dimension": (lambda: LinearCCA().fit(X[:, 0], Y), ValueError, "Expected 2D array"),
    "words": (lambda: LinearCCA().fit([["a", "b"]] * 60, Y), ValueError, "numeric"),
    "complex": (lambda: LinearCCA().fit(X + 1j, Y), ValueError, "[Cc]omplex data not supported"),
    "merging others' widths": (lambda: LinearCCA().fit(X, Y).merge(LinearCCA().fit(X[:, 1:], Y)), DataError,
                               "view1 has a width of 4 here and of 3 there"),
    "merging others' widths, few": (lambda: LinearCCA().fit(X[:3], Y[:3]).merge(LinearCCA().fit(X[:3, 1:], Y[:3])),
                                    DataError, "view1 has a width of 4 here and of 3 there"),
    "merging the unfitted": (lambda: LinearCCA().fit(X, Y).merge(LinearCCA()), DataError, "fitted in this session"),
    "no components": (lambda: LinearCCA(0).fit(X, Y), DataError, "n_components must be .* from 1 to 4 .* got 0"),
    "components too many": (lambda: LinearCCA(5).fit(X, Y), DataError, "n_components must be .* from 1 to 4 .* got 5"),
    "more components than pairs": (lambda: LinearCCA(4).fit(X[:3], Y[:3]), DataError, "from 1 to 3 .* got 4"),
    "components too many for PLS": (lambda: PLS(5).fit(X, Y), DataError, "n_components must .* from 1 to 4 .* got 5"),
    "components too many for kernels": (lambda: KernelCCA(61).fit(X, Y), DataError, "n_components must .* got 61"),
    "negative ridge": (lambda: LinearCCA(r1=-1e-3).fit(X, Y), DataError, "r1 and r2 must be .* at least 0, got -0.001"),
    "ridge of NaN": (lambda: LinearCCA(r2=float("nan")).fit(X, Y), DataError, "at least 0, got 0.001 and nan"),
    "infinite ridge": (lambda: LinearCCA(r2=float("inf")).fit(X, Y), DataError, "r1 and r2 must be"),
    "negative ridge of kernels": (lambda: KernelCCA(r2=-1).fit(X, Y), DataError, "r1 and r2 must be"),
    "solver": (lambda: LinearCCA(svd_solver="arpack").fit(X, Y), DataError, "svd_solver must be .* got 'arpack'"),
    "kernel": (lambda: KernelCCA(kernel="rfb").fit(X, Y), DataError, "kernel 'rfb': did you mean rbf"),
    "kernel of view 2": (lambda: KernelCCA(kernel=("rbf", "polly")).fit(X, Y), DataError, "'polly': did you mean poly"),
    "three kernels": (lambda: KernelCCA(kernel=("rbf",) * 3).fit(X, Y), DataError, "a pair of them for view 1 and"),
    "approximation": (lambda: KernelCCA(approximation="nystrom").fit(X, Y), DataError,
                      "approximation must be None, 'nystroem' or 'fourier', got 'nystrom'"),
    "regularisation": (lambda: KernelCCA(regularisation="l2").fit(X, Y), DataError, "regularisation must be .* 'l2'"),
    "no features": (lambda: KernelCCA(approximation="fourier", n_features=0).fit(X, Y), DataError,
                    "n_features must be a whole number of at least 1, got 0"),
    "half a feature": (lambda: KernelCCA(approximation="fourier", n_features=1.5).fit(X, Y), DataError, "got 1.5"),
    "Fourier features of a polynomial": (lambda: KernelCCA(kernel="poly", approximation="fourier").fit(X, Y), DataError,
                                         "with 'poly' use 'nystroem'"),
    "approximating what is given": (lambda: KernelCCA(kernel="precomputed", approximation="nystroem").fit(X, Y),
                                    DataError, "precomputed kernel is exact"),
    "precomputed and not square": (lambda: KernelCCA(kernel="precomputed").fit(X, Y), DataError, r"square .*\(60, 4\)"),
    "precomputed in batches": (lambda: KernelCCA(kernel="precomputed").fit_batches(
        [(torch.eye(3), torch.eye(3))]), DataError, "can't come in batches"),
    "unknown solver of PLS": (lambda: PLS(svd_solver="arpack").fit(X, Y), DataError, "svd_solver must be"),
    "unknown solver of kernels": (lambda: KernelCCA(svd_solver="arpack").fit(X, Y), DataError, "svd_solver must be"),
    "complex tensor": (lambda: LinearCCA().fit(torch.from_numpy(X + 1j), Y), DataError, "X must hold real numbers"),
    "tensor without columns": (lambda: LinearCCA().fit(torch.zeros(60, 0), Y), DataError, r"X must .* \(60, 0\)"),
    "tensor without rows": (lambda: LinearCCA().fit(X, Y).transform(torch.zeros(0, 4)), DataError,
                            "X must have at least 1 items; got 0"),
    "components that are not whole": (lambda: LinearCCA(2.5).fit(X, Y), DataError, "n_components must .* got 2.5"),
    "components in words": (lambda: LinearCCA("two").fit(X, Y), DataError, "n_components must .* got two"),
    "negative gamma": (lambda: KernelCCA(gamma=-1.0, approximation="fourier").fit(X, Y), DataError,
                       "gamma must be a number above 0, got -1.0"),
    "gamma of 0": (lambda: KernelCCA(gamma=(None, 0.0)).fit(X, Y), DataError, "gamma must be a number above 0, got 0"),
    "degree that is not whole": (lambda: KernelCCA(kernel="poly", degree=2.5).fit(X - 50, Y), DataError,
                                 "degree must be a whole number of at least 1, got 2.5"),
    "merging a view of another width, alone": (lambda: LinearCCA().partial_fit(X).merge(LinearCCA().fit(X[:, 1:], Y)),
                                               DataError, "view1 has a width of 4 here and of 3 there"),
    "merging with itself": (lambda: (lambda m: m.merge(m))(LinearCCA().fit(X[:3], Y[:3])), DataError, "itself"),
    "merging another kind": (lambda: LinearCCA().merge(KernelCCA(1, random_state=0).fit(X, Y)), DataError,
                             "LinearCCA can't merge with KernelCCA"),
    "merging another kind into kernels": (lambda: KernelCCA(1).merge(LinearCCA().fit(X, Y)), DataError,
                                          "KernelCCA can't merge with LinearCCA"),
    "merging a number": (lambda: LinearCCA().merge(3), DataError, "LinearCCA can't merge with int"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_said(what):
    use, error, message = WRONG[what]
    with pytest.raises(error, match=message) as raised:
        use()
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize("model", ESTIMATORS, ids=str)
def test_unfitted_says_so(model):
    x, y = views()
    for use in (lambda m: m.transform(x), lambda m: m.transform_view2(y), lambda m: m.score(x, y),
                lambda m: m.embed_view1(torch.ones(2, 4)), lambda m: m.state_dict(), lambda m: m.n_pairs_):
        with pytest.raises((NotFittedError, DataError)) as raised:
            use(clone(model))
        if not isinstance(model, KernelCCA):
            assert isinstance(raised.value, NotFittedError) and "call fit first" in str(raised.value)


def test_unfitted_kernels_say_so():
    with pytest.raises(NotFittedError, match="call fit first"):
        _ = KernelCCA().gammas_


# -- arrays and batches together -------------------------------------------------------------------------------------

@pytest.mark.parametrize("model", ESTIMATORS, ids=str)
def test_embedding_tensors_is_transforming_arrays(model):
    x, y = views()
    fitted = clone(model).fit(x, y)
    x, y = torch.from_numpy(x).float(), torch.from_numpy(y).float()
    z1, z2 = fitted.embed_view1(x.view(60, 2, 2)), fitted.embed_view2(y)
    assert z1.dtype == z2.dtype == torch.float64 and not z1.requires_grad
    np.testing.assert_allclose(z1, fitted.transform(x.numpy()), atol=1e-12)
    np.testing.assert_allclose(z2, fitted.transform_view2(y.numpy()), atol=1e-12)


@pytest.mark.parametrize("model", ESTIMATORS, ids=str)
def test_fitted_to_batches_it_transforms_arrays(model):
    x, y = views()
    batch = torch.from_numpy(x).double(), torch.from_numpy(y).double()
    fitted = clone(model).fit_batches([batch])
    np.testing.assert_array_equal(fitted.transform(x), fitted.embed_view1(batch[0]))
    assert fitted.n_features_in_ == 4 and fitted.score(x, y) > 0
    with pytest.raises(ValueError, match="X has 3 features"):
        fitted.transform(x[:, 1:])
    narrow = clone(model).fit(x[:, :2], y[:, :2]).fit_batches([batch])
    np.testing.assert_array_equal(narrow.transform(x), fitted.transform(x))


def test_a_fit_that_fails_is_no_fit():
    """The first of two blocks was good, and is not all of the data."""
    x, y = views()
    model = LinearCCA()
    with pytest.raises(DataError):
        model.fit_batches([(torch.from_numpy(x).double(), torch.from_numpy(y).double()),
                           (torch.full((3, 4), torch.nan), torch.ones(3, 4))])
    with pytest.raises(NotFittedError):
        model.embed_view1(torch.ones(2, 4))


def test_merging_identities():
    x, y = views()
    merged = Identity().fit(x[:20], y[:20]).merge(Identity().fit(x[20:], y[20:]))
    assert merged.n_pairs_ == 60
    np.testing.assert_array_equal(Identity().merge(merged).transform(x), x)


@pytest.mark.parametrize("n", [0, 1])
def test_identity_needs_two_pairs_too(n):
    with pytest.raises(DataError, match="at least two pairs"):
        Identity().fit_batches([(torch.ones(n, 3), torch.ones(n, 3))])


def test_identity_checks_its_pairs_as_the_others_do():
    x = torch.ones(9, 3)
    with pytest.raises(DataError, match="as many rows of view1 as of view2; got 9 and 4"):
        Identity().fit_batches([(x, x[:4])])
    with pytest.raises(DataError, match="NaN or infinite"):
        Identity().fit_batches([(x, x)], lone1=[x * float("nan")])


def test_identity_retrieves_as_the_values_themselves_do():
    x, y = (view.astype(np.float32) for view in views())
    model = Identity().fit(x, y)
    assert retrieval_metrics(*model.transform(x, y)) == retrieval_metrics(x, y)


# -- the state -------------------------------------------------------------------------------------------------------

def through_file(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("through", [lambda state: state, through_file,
                                     lambda state: safetensors.torch.load(safetensors.torch.save(
                                         {name: tensor.contiguous() for name, tensor in state.items()}))],
                         ids=["memory", "torch", "safetensors"])
@pytest.mark.parametrize("model", [*ESTIMATORS, KernelCCA(2, "precomputed")], ids=str)
def test_a_loaded_state_embeds_the_same_to_the_bit(model, through):
    x, y = views()
    if model.get_params().get("kernel") == "precomputed":
        x, y = x @ x.T, y @ y.T
    x, y = x.astype(np.float64), y.astype(np.float64)
    fitted, fresh = clone(model).fit(x, y), clone(model)
    fresh.load_state_dict(through(fitted.state_dict()))
    a, b = torch.from_numpy(x[:7]), torch.from_numpy(y[:7])
    assert torch.equal(fresh.embed_view1(a), fitted.embed_view1(a))
    assert torch.equal(fresh.embed_view2(b), fitted.embed_view2(b))
    np.testing.assert_array_equal(fresh.correlations_, fitted.correlations_)
    again = fresh.state_dict()
    assert list(again) == list(fitted.state_dict())
    assert all(torch.equal(again[name], tensor) for name, tensor in fitted.state_dict().items())


@pytest.mark.parametrize("model", ESTIMATORS, ids=str)
def test_to_the_cpu_and_back_changes_nothing(model):
    x, y = views()
    fitted = clone(model).fit(x, y)
    expected = fitted.transform(x)
    assert fitted.to("cpu") is fitted
    np.testing.assert_array_equal(fitted.transform(x), expected)
    with pytest.raises(NotFittedError):
        LinearCCA().to("cpu")


@pytest.mark.parametrize("model", ESTIMATORS, ids=str)
def test_a_loaded_state_transforms_arrays(model):
    x, y = views()
    fitted, fresh = clone(model).fit(x, y), clone(model)
    fresh.load_state_dict(fitted.state_dict())
    np.testing.assert_array_equal(fresh.transform(x), fitted.transform(x))
    assert fresh.score(x, y) == fitted.score(x, y)
    with pytest.raises(ValueError, match="X has 3 features"):
        fresh.transform(x[:, 1:])


def test_what_was_loaded_can_be_fitted_anew_but_not_added_to():
    x, y = views()
    model = LinearCCA().fit(x[:50], y[:50])
    model.load_state_dict(LinearCCA().fit(x[:9], y[:9]).state_dict())
    with pytest.raises(DataError, match="fitted in this session"):
        LinearCCA().merge(model)
    with pytest.raises(DataError, match="can't add to what was loaded"):
        model.partial_fit(x, y)
    with pytest.raises(DataError, match="merge can't add to what was loaded"):
        model.merge(LinearCCA().fit(x, y))
    np.testing.assert_array_equal(model.fit(x, y).transform(x), LinearCCA().fit(x, y).transform(x))


def changed(model: ClosedForm, **tensors: torch.Tensor | None) -> None:
    """Loads the model's own state with these tensors changed, or left out where None."""
    state = {**clone(model).fit(X, Y).state_dict(), **{name.replace("_", "."): z for name, z in tensors.items()}}
    clone(model).load_state_dict({name: tensor for name, tensor in state.items() if tensor is not None})


BAD_STATES = {
    "no mean": (LinearCCA(2), {"mean1": None}, "LinearCCA has no mean1"),
    "no V": (PLS(2), {"V": None}, "PLS has no V"),
    "U of another width": (LinearCCA(2), {"U": torch.ones(3, 2)}, r"U \(3, 2\) and V \(4, 2\) don't fit means of 4"),
    "V of other components": (LinearCCA(2), {"V": torch.ones(4, 3)}, r"V \(4, 3\) don't fit"),
    "other correlations": (PLS(2), {"correlations": torch.ones(3)}, "3 components were stored"),
    "U of one dimension": (LinearCCA(2), {"U": torch.ones(4)}, "U of LinearCCA must be a real tensor of 2 dimensions"),
    "mean of no dimension": (LinearCCA(2), {"mean1": torch.tensor(1.0)}, "mean1 .* real tensor of 1 dimension$"),
    "mean of two dimensions": (LinearCCA(2), {"mean1": torch.ones(4, 1)}, "mean1 .* real tensor of 1 dimension$"),
    "correlations of two dimensions": (LinearCCA(2), {"correlations": torch.ones(2, 5)}, "correlations .* tensor of 1"),
    "a list": (LinearCCA(2), {"mean1": [1.0] * 4}, "mean1 of LinearCCA must be a real tensor"),
    "no landmarks": (KernelCCA(2, random_state=0), {"map1_landmarks": None}, "no map1.landmarks"),
    "no whitening": (KernelCCA(2, random_state=0), {"map1_whitening": None}, "no map1.whitening"),
    "no frequencies": (KernelCCA(2, approximation="fourier"), {"map2_frequencies": None}, "no map2.frequencies"),
    "frequencies too": (KernelCCA(2, random_state=0), {"map2_frequencies": torch.ones(4, 5)}, "map2 .* consist of"),
    "landmarks of another number": (KernelCCA(2, random_state=0), {"map1_landmarks": torch.ones(3, 4)}, "don't fit"),
    "landmarks of eight bits": (KernelCCA(2, random_state=0),
                                {"map1_landmarks": torch.ones(4, 4).to(torch.float8_e4m3fn)}, "finite numbers"),
    "gamma of two values": (KernelCCA(2, random_state=0), {"map1_gamma": torch.ones(2)}, "map1 don't fit"),
    "width of two values": (Identity(), {"width": torch.ones(2)}, "Identity"),
    "negative width": (Identity(), {"width": torch.tensor(-3)}, "Identity"),
    "no gamma": (KernelCCA(2, random_state=0), {"map2_gamma": None}, "KernelCCA has no map2.gamma"),
    "a kernel's state without maps": (KernelCCA(2, "linear"), {"map1_gamma": None, "map2_gamma": None}, "map1.gamma"),
    "Identity with more": (Identity(), {"U": torch.ones(2)}, "a width, a whole number, and nothing else"),
    "Identity with nothing": (Identity(), {"width": None}, "a width, a whole number, and nothing else"),
}


@pytest.mark.parametrize("what", BAD_STATES)
def test_states_that_are_none(what):
    model, tensors, message = BAD_STATES[what]
    with pytest.raises(CheckpointError, match=message):
        changed(model, **tensors)


@pytest.mark.filterwarnings("ignore:Casting complex values")
@pytest.mark.parametrize(("model", "tensors"), [
    (KernelCCA(2, random_state=0), {"map1_landmarks": torch.ones(3, 4), "map1_whitening": torch.ones(3, 3)}),
    (KernelCCA(2, approximation="fourier", n_features=10), {"map2_frequencies": torch.ones(4, 9)}),
    (LinearCCA(2), {"U": torch.ones(4, 2, dtype=torch.complex64)}),
], ids=["features of another number", "frequencies of another number", "complex"])
def test_states_that_should_be_refused(model, tensors):
    with pytest.raises(CheckpointError):
        changed(model, **tensors)


@pytest.mark.parametrize(("state", "model"), [(LinearCCA(2), Identity()), (Identity(), PLS(2)),
                                              (LinearCCA(2), KernelCCA(2))], ids=str)
def test_the_state_of_another_kind(state, model):
    with pytest.raises(CheckpointError):
        model.load_state_dict(state.fit(X, Y).state_dict())


def test_what_is_handed_out_is_a_copy():
    model = LinearCCA().fit(X, Y)
    expected = model.transform(X)
    model.U_[:] = 0
    model.state_dict()["mean1"].zero_()
    np.testing.assert_array_equal(model.transform(X), expected)


# -- what goes wrong leaves nothing half done ------------------------------------------------------------------------

def test_a_failed_fit_leaves_no_widths_behind():
    x, y = views()
    model = LinearCCA()
    for fail in (lambda: model.fit(x[:, :2] * np.nan, y), lambda: model.partial_fit(x[:, :2] * np.nan, y)):
        with pytest.raises(DataError, match="NaN"):
            fail()
        assert not hasattr(model, "n_features_in_") and not model.__sklearn_is_fitted__()
    assert model.partial_fit(x, y).merge(LinearCCA().fit(x, y)).n_pairs_ == 2 * len(x)


def test_a_partial_fit_that_fails_adds_nothing():
    x, y = (np.tile(view.astype(float), (100, 1)) for view in views())       # several blocks
    bad = x.copy()
    bad[-1, 0] = np.nan
    model = LinearCCA().partial_fit(x, y)
    for wrong in ((bad, y), (x, bad), (bad, None), (None, bad)):
        with pytest.raises(DataError, match="NaN"):
            model.partial_fit(*wrong)
    assert model.n_pairs_ == len(x)
    np.testing.assert_array_equal(model.transform(x), LinearCCA().fit(x, y).transform(x))
    with pytest.raises(DataError, match="needs both X and Y"):
        model.partial_fit(x, pairs=[[0, 0]])


def test_how_many_pairs_is_not_known_of_what_was_loaded():
    x, y = views()
    model = LinearCCA()
    model.load_state_dict(LinearCCA().fit(x, y).state_dict())
    assert not hasattr(model, "n_pairs_") and model.transform(x).shape == (60, 4)


@pytest.mark.parametrize("wrong", [{"r1": "a"}, {"r2": None}, {"unpaired_weight": "some"}, {"unpaired_weight": 2}])
def test_parameters_of_another_type(wrong):
    x, y = views()
    with pytest.raises(DataError, match=r"must be"):
        LinearCCA(**wrong).fit(x, y)
    LinearCCA(r1=np.float32(0.5), unpaired_weight=np.float32(0.5)).fit(x, y)


def test_an_unfitted_kernel_does_not_take_over_another_kernel():
    x, y = views()
    with pytest.raises(DataError, match="the same kernel"):
        KernelCCA(kernel="poly").merge(KernelCCA(kernel="rbf").fit(x, y))
    with pytest.raises(DataError, match="gamma must be a number"):
        KernelCCA(gamma="scale").fit(x, y)


@pytest.mark.parametrize("scale", [1e155, 1e200])
@pytest.mark.parametrize("model", [LinearCCA(2), PLS(2), KernelCCA(2, "linear", regularisation="bach_jordan")], ids=str)
def test_values_whose_squares_overflow_are_refused(model, scale):
    x, y = views()
    with pytest.raises(NumericalError, match="covariance of view1 is not finite"):
        clone(model).fit(x * scale, y * scale)


def test_kernels_mean_the_same_at_any_scale():
    x, y = views()
    for regularisation in ("norm", "bach_jordan"):
        model = KernelCCA(2, "linear", regularisation=regularisation)
        np.testing.assert_allclose(clone(model).fit(x * 1e-100, y * 1e-90).correlations_,
                                   model.fit(x, y).correlations_, rtol=1e-6)


def test_a_pickle_holds_the_sums_and_nothing_twice():
    rng = np.random.default_rng(0)
    model = LinearCCA(5).fit(rng.normal(size=(2000, 100)), rng.normal(size=(2000, 100)))
    assert len(pickle.dumps(model)) < 8 * (3 * 100 * 100 + 4 * 100 + 10 * 100) + 10_000
