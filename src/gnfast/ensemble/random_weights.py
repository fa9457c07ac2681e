"""A random weight matrix, seen through the few vectors that it is multiplied with, and drawn no further.

W (m, n) is seen twice: forward on an orthonormal frame, W F with F (n, r); and backward, Y W for a few rows Y (k, m).
In frames of their own both are small, whatever m and n. Forward W F = U T with U (m, r') a uniformly random frame and T
(r', r) small; no entry of U is ever needed. Backward Y = f U^T + h V^T with V a frame orthogonal to U, so that

    Y W = f T F^T + (rows orthogonal to F) = f T F^T + h' V'^T

where V' is again a uniformly random frame orthogonal to F and h' (k, s') is small. The laws of T and h' are all
that a kind of weights has to know. Everything here is exact for every m, n, r and k, bottlenecks included, and nothing
is ever inverted.

Wide Gaussian matrices make T nearly a multiple of the identity. With shift = 1 only the deviations T / sqrt(m v) - I
are drawn and handed on, so that no digit is lost to the subtraction; with shift = 0 they are T / sqrt(m v) itself.

References:
    Bartlett, "On the theory of statistical regression", Proc. R. Soc. Edinburgh 1933, for T; Lu, "Householder dice",
    IEEE Trans. Inf. Theory 2021, for drawing only what is seen; Edelman & Sutton, "The beta-Jacobi matrix model, the CS
    decomposition, and generalized singular value problems", Found. Comput. Math. 2008, for blocks of Haar matrices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.random import Generator
from scipy.linalg import blas, lapack

from gnfast import _arrays
from gnfast.ensemble.results import FloatArray


@dataclass(frozen=True)
class ForwardSketch:
    """W F = sqrt(out_scale) U (shift I + T), U a uniformly random frame of len(T) columns.

    T: (r', r), lower triangular where it is square; the identity where `isometric`, without a shift.
    beyond: (r', e), T T^T + beyond beyond^T = I, of a W with orthonormal rows; e = 0 for others.
    """

    T: FloatArray
    shift: float
    beyond: FloatArray
    isometric: bool = False

    @property
    def rank(self) -> int:
        """Dimension of the image."""
        return len(self.T)

    def after(self, f: FloatArray) -> FloatArray:
        """f (shift I + T), for rows f (k, r')."""
        if self.isometric:
            return f
        return self.shift * f + f @ self.T if self.shift else f @ self.T

    def before(self, C: FloatArray) -> FloatArray:
        """(shift I + T) (shift I + C) - shift I, for C (r, columns), without cancellation."""
        if self.isometric:
            return C
        square = len(self.T) == self.T.shape[1]
        product = lower_times(self.T, C) if square else self.T @ C
        if self.shift:
            product += self.T
            product += C
        return product


@dataclass(frozen=True)
class BackwardSketch:
    """Y = f U^T + (shift I + h) V^T in a frame [U V]: rows of a product of weights, up to a scale.

    f: (k, r'), the part that forward vectors see. h: (k, s).
    """

    f: FloatArray
    h: FloatArray
    shift: float = 0.0

    def gram(self) -> FloatArray:
        """Y Y^T - shift I, without cancellation."""
        square = self.h @ self.h.T + self.f @ self.f.T
        return square + self.h + self.h.T if self.shift else square

    def factor(self) -> FloatArray:
        """c - shift I for a c (k, q) with c c^T = Y Y^T.

        Near the identity the symmetric root, from its deviation; elsewhere from an LQ factorisation, which squares
        nothing and whose q is no more than the rank.
        """
        if self.shift:
            values, vectors = np.linalg.eigh(self.gram())
            root: FloatArray = (vectors * (values / (1 + np.sqrt(1 + values)))) @ vectors.T
            return root
        return lower_factor(np.hstack([self.f, self.h]))


class Weight(Protocol):
    """The law of a weight matrix (rows, columns)."""

    @property
    def rows(self) -> int:
        """BackwardSketch of the weight."""

    @property
    def columns(self) -> int:
        """Columns of the weight."""

    @property
    def out_scale(self) -> float:
        """W^T W / out_scale tends to the identity as the rows grow."""

    @property
    def in_scale(self) -> float:
        """W W^T / in_scale tends to the identity as the columns grow."""

    def apply(self, rng: Generator, rank: int, shift: float) -> ForwardSketch:
        """W on an orthonormal frame of `rank` columns."""

    def last_layer(self, rng: Generator, rank: int, shift: float) -> BackwardSketch:
        """W itself, in a frame whose first `rank` vectors are given: the last layer of a network."""

    def apply_transpose(self, rng: Generator, sketch: ForwardSketch, rows: BackwardSketch) -> BackwardSketch:
        """Y W / sqrt(in_scale), of Y = `rows` in the frame of `sketch`; in the frame that `sketch` is of."""


@dataclass(frozen=True)
class Gaussian:
    """W (rows, columns) with independent entries N(0, variance)."""

    rows: int
    columns: int
    variance: float

    @property
    def out_scale(self) -> float:
        """W^T W / out_scale tends to the identity as the rows grow."""
        return self.rows * self.variance

    @property
    def in_scale(self) -> float:
        """W W^T / in_scale tends to the identity as the columns grow."""
        return self.columns * self.variance

    def apply(self, rng: Generator, rank: int, shift: float) -> ForwardSketch:
        """W on an orthonormal frame of `rank` columns."""
        T = bartlett(rng, self.rows, rank, self.rows, shift)
        return ForwardSketch(T, shift, np.zeros((len(T), 0)))

    def last_layer(self, rng: Generator, rank: int, shift: float) -> BackwardSketch:
        """W itself, in a frame whose first `rank` vectors are given: the last layer of a network."""
        f = rng.standard_normal((self.rows, rank)) / np.sqrt(self.columns)
        return BackwardSketch(f, bartlett(rng, self.columns - rank, self.rows, self.columns, shift).T, shift)

    def apply_transpose(self, rng: Generator, sketch: ForwardSketch, rows: BackwardSketch) -> BackwardSketch:
        """Y W / sqrt(in_scale), of Y = `rows` in the frame of `sketch`; in the frame that `sketch` is of."""
        shift, c = rows.shift, rows.factor()
        f = np.sqrt(self.rows / self.columns) * sketch.after(rows.f)
        # W beyond the frame is Gaussian and has not been seen, and c N has the law of Y N: both have the Gram c c^T.
        N = bartlett(rng, self.columns - sketch.T.shape[1], c.shape[1], self.columns, shift).T
        h = c @ N + shift * (c + N) if shift else c @ N
        return BackwardSketch(f, h, shift)


@dataclass(frozen=True)
class Orthogonal:
    """W (rows, columns), Haar-distributed with orthonormal rows or columns, times `gain`."""

    rows: int
    columns: int
    gain: float = 1.0

    @property
    def out_scale(self) -> float:
        """W^T W / out_scale tends to the identity as the rows grow."""
        return self.gain**2

    @property
    def in_scale(self) -> float:
        """W W^T / in_scale tends to the identity as the columns grow."""
        return self.gain**2

    def apply(self, rng: Generator, rank: int, shift: float = 0.0) -> ForwardSketch:
        """W on an orthonormal frame of `rank` columns."""
        T, beyond = truncated_frame(rng, self.rows, self.columns - self.rows, rank)
        return ForwardSketch(T, 0.0, beyond, isometric=self.rows >= self.columns)

    def last_layer(self, rng: Generator, rank: int, shift: float = 0.0) -> BackwardSketch:
        """W itself, in a frame whose first `rank` vectors are given: the last layer of a network."""
        sketch, outputs = self.apply(rng, rank), haar(rng, self.rows)
        return self.apply_transpose(rng, sketch, BackwardSketch(outputs[:, : sketch.rank], outputs[:, sketch.rank :]))

    def apply_transpose(self, rng: Generator, sketch: ForwardSketch, rows: BackwardSketch) -> BackwardSketch:
        """Y W / sqrt(in_scale), of Y = `rows` in the frame of `sketch`; in the frame that `sketch` is of."""
        f = sketch.after(rows.f)
        if self.rows >= self.columns:
            # An isometry, which takes what is orthogonal to the frame into what is orthogonal to its image.
            unseen = self.columns - sketch.T.shape[1]
            T, _ = truncated_frame(rng, unseen, self.rows - self.columns, rows.h.shape[1])
            return BackwardSketch(f, rows.h @ T.T)
        # W beyond the frame is [U beyond, what is orthogonal to U] times a Haar matrix with orthonormal rows.
        return BackwardSketch(f, lower_factor(np.hstack([rows.f @ sketch.beyond, rows.h])))


def bartlett(rng: Generator, rows: int, columns: int, scale: float, shift: float = 0.0) -> FloatArray:
    """T / sqrt(scale) - shift I of a Gaussian matrix N(0, 1) of (rows, columns) = U T, U a frame, T lower trapezoidal.

    T is (min(rows, columns), columns). Its last row ends in a chi variable with `rows` degrees of freedom, the one
    before with rows - 1, and so on; what stands left of these is N(0, 1): O(columns^2) draws whatever `rows`. A chi
    variable squared is drawn as it is, since its difference from its mean is then exact.
    """
    count = min(rows, columns)
    T = np.zeros((count, columns))
    for i in range(count):
        rng.standard_normal(out=T[i, : columns - count + i])
    T *= 1 / np.sqrt(scale)
    squares = rng.chisquare(np.arange(rows - count + 1, rows + 1))
    excess = (squares - shift * scale) / scale
    # sqrt(1 + x) - 1 = x / (1 + sqrt(1 + x)); with no shift sqrt(x)
    end = excess / (1 + np.sqrt(1 + excess)) if shift else np.sqrt(excess)
    T[np.arange(count), columns - count + np.arange(count)] = end
    return T


def truncated_frame(rng: Generator, kept: int, dropped: int, columns: int) -> tuple[FloatArray, FloatArray]:
    """The first `kept` rows of a uniformly random frame (kept + dropped, columns), as U T with U a frame.

    T (min(kept, columns), columns) is lower triangular where it is square, the identity where nothing is dropped. The
    second matrix B completes it, T T^T + B B^T = I.

    A Gaussian matrix is a frame times a triangular factor, and so are its two blocks of rows by themselves: T is the
    upper part of the orthonormal factor of [T_kept; T_dropped], each of them by `bartlett`.
    """
    if dropped <= 0:
        return np.eye(columns), np.zeros((columns, 0))
    above, below = bartlett(rng, kept, columns, 1.0), bartlett(rng, dropped, columns, 1.0)
    # Rows and columns in reverse, so that the QR factorisation is a QL one and T = T_kept R^-1 is lower triangular.
    stacked = np.vstack([above, below])[::-1, ::-1]
    Q, R = np.linalg.qr(stacked, mode="complete")
    Q[:, :columns] *= np.where(np.diag(R) < 0, -1.0, 1.0)
    count = len(above)
    T = Q[::-1, :columns][:count, ::-1]
    return np.tril(T, columns - count), Q[::-1, columns:][:count]


def haar(rng: Generator, size: int) -> FloatArray:
    """A uniformly random orthogonal matrix."""
    return orthonormal(rng.standard_normal((size, size)))


def orthonormal(G: FloatArray) -> FloatArray:
    """Q of G = Q R with a positive diagonal of R: uniformly random if G is Gaussian (Mezzadri 2007)."""
    Q, R = np.linalg.qr(G)
    frame: FloatArray = Q * np.where(np.diag(R) < 0, -1.0, 1.0)
    return frame


def lower_factor(M: FloatArray) -> FloatArray:
    """L (k, min(k, columns)) with L L^T = M M^T, by an LQ factorisation."""
    return np.asarray(np.linalg.qr(M.T, mode="r")).T


def lower_times(L: FloatArray, C: FloatArray) -> FloatArray:
    """L C for L (r, r) lower triangular and C (r, columns), both in C order: half the flops of a full product."""
    product: FloatArray = blas.dtrmm(1.0, L.T, C.T, side=1, lower=0).T
    return product


def gram_of(C: FloatArray, shift: float = 0.0) -> FloatArray:
    """(shift I + C)^T (shift I + C) - shift I, of a square C that is lower triangular at a third of the flops."""
    rows, columns = C.shape
    if rows != columns:
        return np.asarray(C.T @ C)
    found: FloatArray = lapack.dlauum(C.T, lower=0)[0].T  # the upper triangle of U U^T, U = C^T, in Fortran's order
    if shift:
        found += C
        found[np.diag_indices(rows)] += C.diagonal()
    _arrays.mirror_lower(found)
    return found
