"""Gauss-Newton products in JAX by its own derivatives and by ours, as its users write them.

Both are compiled by XLA under vmap, and take and give pytrees of blocks: what ours costs for its hand-over by callback
and for transpositions is charged to it. JAX's own linearizes the network once, beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gnfast as gn
from gnfast.interop.jax import Conv, Dense, GaussNewton

Kernels = tuple[tuple[int, ...], ...]  # shapes in the layout of Flax: convolutions, then dense layers


def cases(quick: bool) -> Iterator[tuple[str, str, float, Callable[[], tuple[Callable, Callable, Callable]]]]:
    """Kind, what, the ratio that is aimed at, and the calls: rows of dropin.py."""
    networks: list[tuple[str, tuple[int, ...], Kernels, int]] = [("dense", (20,), ((20, 16), (16, 3)), 6)]
    if not quick:
        networks = [
            ("dense", (784,), ((784, 256), (256, 10)), 128),
            ("dense", (784,), ((784, 512), (512, 512), (512, 10)), 256),
            ("dense", (784,), ((784, 1024), (1024, 1024), (1024, 10)), 256),
            ("dense", (784,), ((784, 512), (512, 512), (512, 10)), 2048),
        ]
    c, size, n = (2, 8, 4) if quick else (16, 32, 64)
    kernels = (3, 3, 3, c), (3, 3, c, 2 * c), (2 * c * size**2 // 16, 10)
    networks.append(("convolutional", (size, size, 3), kernels, n))
    for kind, sample, kernels, n in networks:
        for s in (1, 16):
            target = 0.9 if s == 1 else 3.0 if kind == "dense" else 1.5
            shape = "-".join(str(kernel[-1]) for kernel in kernels)
            what = f"{' x '.join(map(str, sample))} to {shape}, n = {n}, s = {s}"
            yield kind, what, target, lambda problem=(sample, kernels, n, s): calls(*problem)


def calls(sample: tuple[int, ...], kernels: Kernels, n: int, s: int) -> tuple[Callable, Callable, Callable]:
    """Ours, theirs, and how far their results are apart."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> Any:
        return jnp.asarray(rng.standard_normal(shape, dtype=np.float32))

    params = [
        {"kernel": draw(*shape) * math.sqrt(2 / math.prod(shape[:-1])), "bias": draw(shape[-1])} for shape in kernels
    ]
    X = draw(n, *sample)
    V = jax.tree.map(lambda array: draw(s, *array.shape), params)
    ours = jax.jit(jax.vmap(GaussNewton(params, X, layers=layers(kernels), apply=outputs)))
    _, push = jax.linearize(lambda params: outputs(params, X), params)
    _, pull = jax.vjp(lambda params: outputs(params, X), params)
    theirs = jax.jit(jax.vmap(lambda v: pull(push(v) / n)[0]))

    def error() -> float:
        a, b = (jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(product(V))]) for product in (ours, theirs))
        return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))

    return lambda: jax.block_until_ready(ours(V)), lambda: jax.block_until_ready(theirs(V)), error


def outputs(params: Any, X: Any) -> Any:
    """Convolutions with strides of 2, then dense layers, and ReLU between them."""
    for i, layer in enumerate(params):
        X = jax.nn.relu(X) if i else X
        if layer["kernel"].ndim == 4:
            axes = ("NHWC", "HWIO", "NHWC")
            X = jax.lax.conv_general_dilated(X, layer["kernel"], (2, 2), "SAME", dimension_numbers=axes)
        else:
            X = X.reshape(len(X), -1) @ layer["kernel"]
        X = X + layer["bias"]
    return X


def layers(kernels: Kernels) -> list[Any]:
    """The same, said to ours."""
    found: list[Any] = []
    images = [kernel for kernel in kernels if len(kernel) == 4]
    for _ in images:
        found += [Conv(strides=2), "relu"]
    found += [gn.Flatten()] if images else []
    for _ in kernels[len(images) :]:
        found += [Dense(), "relu"]
    return found[:-1]
