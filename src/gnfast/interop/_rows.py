"""The Gram of a PyTorch model from rows of R^T J, sample by sample, where samples do not see each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from gnfast.interop._autograd import Products, untracked
from gnfast.interop._models import Model
from gnfast.interop._plain import dense
from gnfast.interop._probes import worst

Tensor: TypeAlias = Any  # torch.Tensor, which a type checker sees only where PyTorch is installed


def gram_rows(model: Model, first: int, cotangents: Tensor, one_by_one: bool = False) -> Tensor:
    """J_i^T u (count r, p) for r cotangents u (count, r, k) of each of some samples, which must not be coupled.

    By vmap over samples and cotangents, or by plain autograd for each.
    """
    count, r, _ = cotangents.shape
    X = model.X[first : first + count]
    if one_by_one:
        plain = model.plain
        pulled = [plain.pulled(model.given(X[i : i + 1]), list(cotangents[i][:, None])) for i in range(count)]
        vectors = [torch.cat([part.reshape(-1) for part in parts]) for _, found in pulled for parts in found]
        return torch.stack(vectors)

    def rows_of(x: Tensor, starts: Tensor) -> tuple[Tensor, ...]:
        def call(*parameters: Tensor) -> Tensor:
            return model.call(list(parameters), x[None]).reshape(-1)

        _, pull = torch.func.vjp(call, *model.parameters)
        found: tuple[Tensor, ...] = torch.vmap(pull)(starts)
        return found

    with model.kernels():
        parts = torch.vmap(rows_of)(X, cotangents)
    return torch.cat([dense(part).reshape(count * r, -1) for part in parts], dim=1)


def each_rows(
    products: Products, reduced: bool, one_by_one: bool, step: int, use: Callable[[int, Tensor], None]
) -> bool:
    """use(number of the first, rows) for the rows (n r, p) of R^T J, by `gram_rows` of so many samples at a time.

    Returns:
        Whether they are right: J^T R y by plain autograd of all samples together, y random, is what they give.
    """
    r, n = products.rank(reduced), products.n
    generator = torch.Generator().manual_seed(0)
    starts, total = [], 0.0
    for first in range(0, n, step):
        count = min(step, n - first)
        with untracked():
            outputs = products.model.outputs(products.model.X[first : first + count]).reshape(count, -1)
            identity = torch.eye(r, dtype=outputs.dtype, device=outputs.device)[:, None].expand(r, count, r)
            hessian = products.hessian(outputs, first)
            cotangents = hessian.root(identity, reduced).transpose(0, 1)
            rows = gram_rows(products.model, first, cotangents, one_by_one)
            y = (torch.randint(0, 2, (count * r,), generator=generator) * 2 - 1).to(rows)
            starts.append(torch.einsum("nr,nrk->nk", y.view(count, r), cotangents))
            total = total + y @ rows
        use(first * r, rows)
    return not products.check or not worst(products.model, total, _pulled_plainly(products, torch.cat(starts)))


def _pulled_plainly(products: Products, U: Tensor) -> Tensor:
    """J^T u (p,) of cotangents (n, k), by plain autograd."""
    total: Any = 0.0
    for first in range(0, products.n, products.blocks.samples):
        samples = slice(first, first + products.blocks.samples)
        _, (parts,) = products.model.plain.pulled(products.model.given(products.model.X[samples]), [U[samples]])
        total = total + torch.cat([part.reshape(-1) for part in parts])
    return total
