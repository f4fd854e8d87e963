"""``digits``: left and right halves of scikit-learn's 1,797 handwritten digits. Needs no download."""
from __future__ import annotations

import numpy as np

from xmodal.data.pairs import PairedData, PairSplit
from xmodal.errors import DataError

SPLIT_SEED = 23
N_VALID, N_TEST = 200, 400


def load_digits() -> PairedData:
    """The 8x8 images cut down the middle: two views of 8x4 = 32 grey values in 0..1, with the digit as label.

    1,197 pairs train, 200 validate, 400 test, drawn by one fixed permutation. No two images are equal, so none is on
    two sides.

    Raises:
        DataError: scikit-learn isn't installed.
    """
    try:
        from sklearn.datasets import load_digits as load_images
    except ImportError as error:
        raise DataError("the data set digits comes with scikit-learn: pip install scikit-learn") from error
    bunch = load_images()
    images = (bunch.images / 16.0).astype(np.float32)
    order = np.random.RandomState(SPLIT_SEED).permutation(len(images))
    rows = {"valid": order[:N_VALID], "test": order[N_VALID:N_VALID + N_TEST], "train": order[N_VALID + N_TEST:]}

    def split(name: str) -> PairSplit:
        picked = images[rows[name]]
        left, right = picked[:, :, :4].reshape(len(picked), 32), picked[:, :, 4:].reshape(len(picked), 32)
        return PairSplit.of(name, left, right, labels=bunch.target[rows[name]])

    return PairedData("digits", split("train"), split("valid"), split("test"), version="1",
                      source="scikit-learn load_digits (test set of Alpaydin and Kaynak's Optical Recognition of "
                             "Handwritten Digits, UCI, 1998)",
                      licence="CC BY 4.0", split_seed=SPLIT_SEED, picture1=(8, 4), picture2=(8, 4)).with_fingerprint()
