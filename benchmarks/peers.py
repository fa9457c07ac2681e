"""How others compute the same quantities: written as their users write it, on the same arrays, at their best.

PyTorch keeps whatever its function can keep between calls, parameters stay in the list form that each peer prefers
(no flattening is charged to it), and what a peer prepares once is prepared before its clock starts.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse.linalg

Array = np.ndarray[Any, Any]


def torch_network(weights: Sequence[Array], slope: float = 0.0) -> Any:
    """Dense layers with leaky ReLU between them, no biases, as a torch.nn.Sequential over the same numbers."""
    import torch

    layers: list[torch.nn.Module] = []
    for weight in weights:
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        layer.weight = torch.nn.Parameter(torch.from_numpy(weight.copy()))
        layers += [layer, torch.nn.LeakyReLU(slope) if slope else torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def split(block: Array, net: Any) -> list[Array]:
    """The (p, s) block as one (*shape, s) array per parameter, vectors contiguous as in a Fortran-ordered block."""
    shapes = [tuple(parameter.shape) for parameter in net.parameters()]
    sizes = [math.prod(shape) for shape in shapes]
    return [
        np.moveaxis(np.ascontiguousarray(block[end - size : end].T).reshape(-1, *shape), 0, -1)
        for shape, size, end in zip(shapes, sizes, np.cumsum(sizes), strict=True)
    ]


def join(parts: Sequence[Any], axis: int) -> Array:
    """The inverse of :func:`split` for tensors whose vectors run along ``axis``."""
    return np.concatenate(
        [np.moveaxis(part.detach().numpy(), axis, -1).reshape(-1, part.shape[axis]) for part in parts]
    )


def curvlinops_ggn(net: Any, X: Any) -> tuple[Any, float]:
    """curvlinops' GGNLinearOperator of a module, and the factor that makes it ours: its loss is 1/(n k) |F - y|^2."""
    import torch
    from curvlinops import GGNLinearOperator

    inputs = torch.as_tensor(X)
    targets = torch.zeros_like(net(inputs))
    operator = GGNLinearOperator(
        net, torch.nn.MSELoss(), list(net.parameters()), [(inputs, targets)], check_deterministic=False
    )
    return operator, targets.shape[1] / 2


def curvlinops_product(net: Any, X: Array, block: Array) -> Callable[[], Sequence[Any]]:
    """Products with curvlinops' GGNLinearOperator.

    Vectors stay contiguous, as :func:`split` leaves them: the faster of the layouts that it takes (by a quarter).
    """
    import torch

    parts = [torch.from_numpy(part).movedim(-1, 0) for part in split(block, net)]
    return curvlinops_of(net, torch.from_numpy(X), parts)


def curvlinops_of(net: Any, inputs: Any, parts: Sequence[Any]) -> Callable[[], Sequence[Any]]:
    """The same with tensors on the network's device: vectors (s, *shape) of each parameter, contiguous."""
    operator, _ = curvlinops_ggn(net, inputs)
    moved = [part.movedim(0, -1) for part in parts]
    return lambda: operator @ moved


def torch_resnet20(classes: int = 10, width: int = 16) -> Any:
    """ResNet-20 for images of 32 x 32 (He et al. 2016) as its users write it, ready for evaluation."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, into: int, out: int, stride: int) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(into, out, 3, stride, 1, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(),
                nn.Conv2d(out, out, 3, 1, 1, bias=False),
                nn.BatchNorm2d(out),
            )
            self.shortcut: nn.Module = nn.Identity()
            if stride > 1:
                self.shortcut = nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out))

        def forward(self, x: Any) -> Any:
            return torch.relu(self.body(x) + self.shortcut(x))

    torch.manual_seed(0)
    widths = [width, 2 * width, 4 * width]
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    for stage, out in enumerate(widths):
        for place in range(3):
            first = stage > 0 and place == 0
            layers.append(Block(widths[stage - 1] if first else out, out, 2 if first else 1))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes)).eval()


class CountedProducts:
    """An operator or array for scipy.sparse.linalg.eigsh, with the vectors that it multiplies counted."""

    def __init__(self, matrix: Any) -> None:
        self.vectors = 0

        def product(v: Array) -> Array:
            self.vectors += 1
            return matrix @ v

        self.operator = scipy.sparse.linalg.LinearOperator(matrix.shape, matvec=product, dtype=matrix.dtype)


def torch_func_product(net: Any, X: Array, block: Array) -> Callable[[], Sequence[Any]]:
    """Products with torch.func: linearize and vjp evaluated once, then vmap over the vectors of the block."""
    import torch

    parts = [torch.from_numpy(part).movedim(-1, 0).contiguous() for part in split(block, net)]
    return torch_func_of(net, torch.from_numpy(X), parts)


def torch_func_of(net: Any, inputs: Any, parts: Sequence[Any], compiled: bool = False) -> Callable[[], Sequence[Any]]:
    """The same with tensors on the network's device, vectors (s, *shape) of each parameter; compiled, which repeats the
    forward pass, since what `linearize` keeps cannot be compiled."""
    import torch
    from torch.func import functional_call, jvp, linearize, vjp, vmap

    names = [name for name, _ in net.named_parameters()]
    parameters = tuple(parameter.detach() for parameter in net.parameters())

    def outputs(*values: Any) -> Any:
        return functional_call(net, dict(zip(names, values, strict=True)), (inputs,))

    def anew(*tangents: Any) -> Any:
        image = jvp(outputs, parameters, tangents)[1]
        return vjp(outputs, *parameters)[1](image / len(inputs))

    if compiled:
        product = torch.compile(vmap(anew))
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # linearize warns about how it stores its own constants
            _, forward = linearize(outputs, *parameters)
        _, backward = vjp(outputs, *parameters)
        product = vmap(lambda *tangents: backward(forward(*tangents) / len(inputs)))

    def call() -> Sequence[Any]:
        with torch.no_grad():
            return product(*parts)

    return call


def kronecker_sum(weights: Sequence[Array], root: Array) -> Array:
    """sum_l P_l (x) root^T Q_l root of a linear network, built and stored in full."""
    left = [np.eye(len(weights[-1]))]
    for weight in reversed(weights[1:]):
        left.insert(0, left[0] @ weight)
    total = np.zeros((len(left[-1]) * root.shape[1],) * 2)
    right = root
    for above, weight in zip(left, weights, strict=True):
        total += np.kron(above @ above.T, right.T @ right)
        right = weight @ right
    return total


def kronecker_spectrum(weights: Sequence[Array], X: Array) -> Array:
    """All eigenvalues of the (k d, k d) matrix sum_l P_l (x) S Q_l S, S the square root of the second moment of X."""
    variances, directions = np.linalg.eigh(X.T @ X / len(X))
    root = (directions * np.sqrt(np.maximum(variances, 0.0))) @ directions.T
    return scipy.linalg.eigvalsh(kronecker_sum(weights, root), overwrite_a=True, check_finite=False)


def data_directions(X: Array) -> tuple[Array, Array]:
    """Square roots of the second moment's non-zero eigenvalues, and their directions (d, r), from X itself."""
    _, values, directions = np.linalg.svd(X / np.sqrt(len(X)), full_matrices=False)
    kept = values > values[0] * max(X.shape) * np.finfo(X.dtype).eps
    return values[kept], directions[kept].T


def data_condition(X: Array) -> float:
    values, _ = data_directions(X)
    return float((values[0] / values[-1]) ** 2)


def kronecker_condition(weights: Sequence[Array], X: Array) -> tuple[float, int]:
    """Condition number and rank of the linear dual with the smallest eigenvalue to full relative accuracy.

    On the range of the data the dual is D N D, D diagonal (square roots of the data's eigenvalues) and
    N = sum_l P_l (x) Q_l well conditioned. All of the ill-conditioning is in D, which is known to relative accuracy, so
    the largest eigenvalue of D^-1 N^-1 D^-1 is exact to about eps * kappa(N), whatever the data.
    """
    values, directions = data_directions(X)
    inner = kronecker_sum(weights, directions)
    scale = np.tile(values, len(weights[-1]))
    size = len(scale)
    largest = largest_eigenvalue(lambda v: scale * (inner @ (scale * v)), size)
    factor = scipy.linalg.cho_factor(inner, lower=True, overwrite_a=True)
    return largest * largest_eigenvalue(lambda v: scipy.linalg.cho_solve(factor, v / scale) / scale, size), size


def largest_eigenvalue(apply: Callable[[Array], Array], size: int) -> float:
    operator = scipy.sparse.linalg.LinearOperator((size, size), apply, dtype=float)
    return float(scipy.sparse.linalg.eigsh(operator, k=1, tol=1e-14, return_eigenvectors=False)[0])


def per_sample_jacobians(weights: Sequence[Array], X: Array, slope: float) -> list[Any]:
    """One (n k, p_l) tensor per layer by vmap of jacrev, the customary way to the Jacobian of every sample."""
    import torch
    from torch.func import functional_call, jacrev, vmap

    net = torch_network(weights, slope)
    parameters = {name: parameter.detach() for name, parameter in net.named_parameters()}

    def output(values: Any, sample: Any) -> Any:
        return functional_call(net, values, (sample,))

    found = vmap(jacrev(output), (None, 0))(parameters, torch.from_numpy(X))
    rows = len(X) * len(weights[-1])
    return [found.pop(name).reshape(rows, -1) for name in list(found)]


def jacobian_spectrum(weights: Sequence[Array], X: Array, slope: float, lean: bool = False) -> Array:
    """Eigenvalues of J J^T / n from per-sample Jacobians, ascending.

    ``lean`` adds up one layer's Gram at a time instead of putting the layers' Jacobians side by side: less memory
    than code usually takes.
    """
    import torch

    parts = per_sample_jacobians(weights, X, slope)
    if lean:
        gram = parts[0] @ parts.pop(0).T
        while parts:
            gram += parts[0] @ parts.pop(0).T
    else:
        jacobian = torch.cat(parts, dim=1)
        del parts
        gram = jacobian @ jacobian.T
        del jacobian
    return scipy.linalg.eigvalsh(gram.numpy() / len(X), overwrite_a=True, check_finite=False)


def customary_condition(eigenvalues: Array) -> tuple[float, int]:
    """Condition number and rank by the usual cut: ``max(eigenvalue) * size * eps`` in their own precision."""
    cut = eigenvalues[-1] * len(eigenvalues) * np.finfo(eigenvalues.dtype).eps
    kept = eigenvalues[eigenvalues > cut]
    return float(kept[-1] / kept[0]), len(kept)


def toeplitz(kernel: Array, side: int) -> Array:
    """The dense matrix (out h' h', in h h) of a valid convolution (out, in, k, k) on square images."""
    out, into, k, _ = kernel.shape
    small = side - k + 1
    matrix = np.zeros((out, small, small, into, side, side))
    rows, columns = np.meshgrid(np.arange(small), np.arange(small), indexing="ij")
    for s, t in np.ndindex(k, k):
        matrix[:, rows, columns, :, rows + s, columns + t] = kernel[:, :, s, t]
    return matrix.reshape(out * small**2, into * side**2)


def toeplitz_spectrum(kernels: Sequence[Array], X: Array) -> Array:
    """All eigenvalues of G (p, p) or of the Gram matrix, the smaller, of a linear network of valid convolutions.

    The derivative of the outputs in kernel entry (o, i, s, t) is the partial product of the matrices above times what
    the layer meets at that tap: a matrix product per layer and sample.
    """
    n, inputs, sides = len(X), [X], [X.shape[-1]]
    matrices = []
    for kernel in kernels:
        matrices.append(toeplitz(kernel, sides[-1]))
        sides.append(sides[-1] - kernel.shape[-1] + 1)
        inputs.append((inputs[-1].reshape(n, -1) @ matrices[-1].T).reshape(n, len(kernel), sides[-1], sides[-1]))
    lefts = [np.eye(len(matrices[-1]))]
    for matrix in matrices[:0:-1]:
        lefts.append(lefts[-1] @ matrix)
    lefts.reverse()

    def jacobian(samples: slice) -> Array:
        blocks = []
        for kernel, values, left, small in zip(kernels, inputs, lefts, sides[1:], strict=False):
            windows = np.lib.stride_tricks.sliding_window_view(values[samples], kernel.shape[2:], (2, 3))
            met = windows.transpose(0, 2, 3, 1, 4, 5).reshape(len(windows), small**2, -1)
            block = left.reshape(-1, small**2) @ met
            blocks.append(block.reshape(len(met) * len(left), -1))
        return np.concatenate(blocks, 1)

    rows, p = n * len(matrices[-1]), sum(kernel.size for kernel in kernels)
    if rows <= p:
        J = jacobian(slice(None))
        return np.linalg.eigvalsh(J @ J.T / n)
    step = max(1, (1 << 27) // (len(matrices[-1]) * p))  # a GiB of the Jacobian at a time
    G = np.zeros((p, p))
    for start in range(0, n, step):
        J = jacobian(slice(start, start + step))
        G += J.T @ J
    return np.linalg.eigvalsh(G / n)
