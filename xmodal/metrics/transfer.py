"""Transfer learning between views: a linear SVM learns classes from one view and is asked about the other."""
from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import poisson

from xmodal.errors import DataError
from xmodal.metrics.views import as_matrix, class_codes

#: Orders of items less likely than this, were they random, are sorted ones.
SORTED = 1e-6


class TransferAccuracy(NamedTuple):
    """``accuracy``: mean over folds, percent · ``unconverged``: fits that stopped at LinearSVC's iteration limit."""

    accuracy: float
    unconverged: int


def transfer_accuracy(train: Any, test: Any, labels: Any, folds: int = 5, groups: Any = None) -> TransferAccuracy:
    """Accuracy of linear SVMs trained on ``train`` rows of all folds but one and tested on ``test`` rows of that one.

    The protocol of Chandar et al. 2015 (Correlational Neural Networks, arXiv 1504.07225, section 5) and its authors'
    code: contiguous folds, unweighted mean over them, scikit-learn's ``LinearSVC`` as it comes (C = 1, one versus
    rest). Values are taken as they are, so the penalty weighs less where a model embeds on a larger scale.

    ``dual="auto"`` is scikit-learn's default from 1.5 on. It solves the same problem as the earlier ``dual=True``,
    which stops short of the optimum on MNIST halves (1,000 iterations, three times as slow).

    Args:
        train: (n, d) rows of the view to learn from, tensor or array of any float width.
        test: (n, d) rows of the view to be asked about; row i belongs to row i of ``train``. The same array as
            ``train`` gives the single-view baseline.
        labels: (n,) classes of the rows.
        folds: how many; see :func:`transfer_folds`.
        groups: (n,) item of each row, where rows share items; see :func:`transfer_folds`.

    Raises:
        DataError: shapes that don't fit, too few items, a training part of one class, items sorted by class.
        NumericalError: NaN or infinite values, or such as float32 can't hold.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC  # half a second, which other commands should not pay

    X, Z = _rows(train, "train"), _rows(test, "test")
    if X.shape != Z.shape:
        raise DataError(f"train and test must have one shape, got {X.shape} and {Z.shape}: an SVM that learned from "
                        "one view can only be asked about another in the same space")
    classes = class_codes(("labels", labels, len(X)))[0]
    accuracies, unconverged = [], 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)     # counted below
        for held_out in transfer_folds(classes, folds, groups):
            svm = LinearSVC(dual="auto", random_state=0).fit(X[~held_out], classes[~held_out])
            accuracies.append(float(np.mean(svm.predict(Z[held_out]) == classes[held_out])))
            unconverged += int(svm.n_iter_ >= svm.max_iter)
    return TransferAccuracy(100.0 * float(np.mean(accuracies)), unconverged)


def transfer_folds(labels: Any, folds: int = 5, groups: Any = None) -> list[np.ndarray]:
    """The rows that each fold tests on, bool masks (n,); what isn't tested on is trained on. Nothing is fitted.

    Folds are contiguous stretches of items in the order of their numbers, the first ones longer by one where the
    number of items isn't divisible. All rows of an item are in its fold, so no item is on both sides.

    Args:
        labels: (n,) classes of the rows.
        folds: how many.
        groups: (n,) item of each row; None where each row is an item of its own. Of a pair table, give the items of
            the view that has the labels. Items of the other view that several of these share (ten one-hot class
            names, say) are then on both sides. Keeping them apart, too, is often impossible: a fold without the
            partners of one class name has to leave the whole class out.

    Raises:
        DataError: shapes that don't fit, too few items, a training part of one class, or items sorted by class: so
            many classes lie wholly within a fold, and are tested on but not trained on, as they do in less than one of
            a million random orders. Classes of fewer items than folds don't count.
    """
    classes = class_codes(("labels", labels, None))[0]
    items = np.arange(len(classes)) if groups is None else class_codes(("groups", groups, len(classes)))[0]
    n_items = len(np.unique(items))
    if folds < 2 or int(folds) != folds:
        raise DataError(f"folds: expected a whole number from 2, got {folds}")
    if n_items < folds:
        raise DataError(f"{folds} folds need at least {folds} items, got {n_items}")
    masks = []
    for number, part in enumerate(np.array_split(np.arange(n_items), folds), start=1):
        held_out = (items >= part[0]) & (items <= part[-1])
        if len(np.unique(classes[~held_out])) < 2:
            raise DataError(f"without fold {number} of {folds}, all items to train on are of one class; "
                            "an SVM needs at least two")
        masks.append(held_out)
    _refuse_sorted(classes, items, np.argmax(masks, axis=0), folds)
    return masks


def _refuse_sorted(classes: np.ndarray, items: np.ndarray, fold: np.ndarray, folds: int) -> None:
    """Raises where more classes lie within one fold than chance puts there, among the largest few or many.

    m items in random order lie within one fold with a probability of about folds^(1 − m).
    """
    _, first = np.unique(classes * len(classes) + items, return_index=True)     # each class with each of its items
    sizes = np.bincount(classes[first])
    starts = np.cumsum(sizes) - sizes
    inside = np.minimum.reduceat(fold[first], starts) == np.maximum.reduceat(fold[first], starts)
    largest = np.argsort(-sizes, kind="stable")[:int((sizes >= folds).sum())]
    found = np.cumsum(inside[largest])
    expected = np.cumsum(float(folds) ** (1.0 - sizes[largest]))
    if (poisson.sf(found - 1, expected) < SORTED).any():
        raise DataError(f"{found[-1]} of {len(sizes)} classes lie wholly within one of the {folds} folds, so that "
                        "nothing of theirs is trained on: the items are sorted by class; shuffle them")


def _rows(z: Any, name: str) -> np.ndarray:
    """Checked rows (n, d) float64, the width that LinearSVC works in."""
    matrix = as_matrix(z, name)
    as_matrix(matrix.to(torch.float32), name)   # beyond its range, squares overflow and liblinear never comes back
    return matrix.to("cpu", torch.float64).numpy()
