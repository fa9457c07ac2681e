"""The images of the experiments as the paper has them: grey, of any number of pixels, with their classes."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gnfast import datasets

Array = NDArray[Any]
CLASSES = 10


@lru_cache(maxsize=4)
def grey(data: str, samples: int, size: int, whiten: bool = False) -> tuple[Array, Array]:
    """Images of size x size pixels, means over colours and over blocks of pixels, with their classes.

    Args:
        data: "digits" (8 x 8), "mnist" (28 x 28), "photographs" or the folder of CIFAR-10 (3 x 32 x 32).
        samples: n, spread evenly over all.
        size: a divisor of the images' own.
        whiten: whether the second moment is made the identity, on its range of dimension r.

    Returns:
        X (n, size^2), or (n, r) where whitened, and the classes one-hot (n, 10).
    """
    X, y = datasets.load_labelled(data, samples)
    colours, side = (3, 32) if X.shape[1] == 3 * 32 * 32 else (1, math.isqrt(X.shape[1]))
    blocks = X.reshape(len(X), colours, size, side // size, size, side // size)
    X = blocks.mean(axis=(1, 3, 5)).reshape(len(X), size**2)
    return datasets.whiten(X) if whiten else X, np.eye(CLASSES)[y]
