"""One Gauss-Newton operator on several devices, each with a share of the samples."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from gnfast import _arrays, _checks, _groups
from gnfast._arrays import Array, Device
from gnfast.losses import loss_at
from gnfast.networks import Network, check_network
from gnfast.operators.gauss_newton import GaussNewton
from gnfast.operators.masked import operator_of
from gnfast.operators.symmetric import SymmetricOperator


class ShardedGaussNewton(SymmetricOperator):
    """G = (1/n) sum_i J_i^T H_i J_i as a sum over shares of the samples, one share a device.

    A product sends the vectors to every device, multiplies there at the same time and adds the results up on the
    first, by NCCL where the devices are GPUs. Vectors are taken and given there; every solver and estimator takes the
    operator. It has no duals: a matrix in the space of samples is one device's.

    Args:
        net: The network, which every device gets a copy of.
        X: Samples as in `GaussNewton`, at least one a device; copied by shares.
        devices: Names of devices, such as ["cuda:0", "cuda:1"]; the first keeps the vectors. "cpu" may be named more
            than once, each time for a share.
        loss, reduction, memory_limit, method, weights: As in `GaussNewton`; the limit is each device's.

    Attributes:
        shards: The `GaussNewton` of each share, with reduction "sum".

    Raises:
        TypeError, ValueError: Bad arguments, a GPU named twice, GPUs beside "cpu", fewer samples than devices, or a
            network whose samples depend on each other, as normalisation over the batch makes them.
        ImportError: CuPy has no NCCL.
    """

    space = "parameters"

    def __init__(
        self,
        net: Network,
        X: Any,
        devices: Sequence[str],
        loss: Any = "mse",
        reduction: str = "mean",
        memory_limit: float | None = None,
        method: str = "auto",
        weights: Any = None,
    ) -> None:
        if isinstance(devices, str) or not devices:
            raise ValueError(
                f"devices is {devices!r} but must be a list of at least one name, such as ['cuda:0', 'cuda:1']"
            )
        group = _groups.group([_arrays.device(name) for name in devices])
        self.reduction = _checks.choice(reduction, "reduction", ("mean", "sum"))
        X = check_network(net).check_samples(_arrays.to_host(X))
        n, count = len(X), len(group.devices)
        if n < count:
            raise ValueError(f"X has {_checks.counted(n, 'sample')} for {count} devices; name at most {n}")
        whole = loss_at(loss, weights, n, net.place(X.shape[1:]).outputs, net.dtype)
        ends = [n * i // count for i in range(count + 1)]
        shares = [slice(*ends) for ends in itertools.pairwise(ends)]

        def make(home: Device, share: slice) -> GaussNewton:
            return GaussNewton(net, X[share], whole.share(share), None, "sum", home, memory_limit, method)

        shards = group.run([partial(make, home, share) for home, share in zip(group.devices, shares, strict=True)])
        if shards[0].problem.products.plan(1).coupled:
            raise ValueError(
                "the samples of this network depend on each other and cannot be shared out; use GaussNewton"
            )
        scale = net.dtype.type(1 / n if self.reduction == "mean" else 1)

        def image(shard: GaussNewton, rows: Array) -> Array:
            out = shard.device.empty(rows.shape, rows.dtype)
            shard.problem.products.apply(rows, out)
            return out

        def product(rows: Array, out: Array) -> None:
            copies = group.spread(rows)
            group.total(group.run([partial(image, *pair) for pair in zip(shards, copies, strict=True)]), out)
            out *= scale

        home = group.devices[0]
        super().__init__(operator_of(product, shards[0].shape[0], net.dtype, home), net.dtype, home)
        self.net, self.shards, self.memory_limit = net, tuple(shards), shards[0].memory_limit
        self._product = product
        limit = None if memory_limit is None else self.memory_limit
        self._parts = net, X, tuple(map(str, group.devices)), whole, self.reduction, limit, method

    def _recipe(self) -> tuple[Any, ...]:
        return type(self), self._parts

    def check_unchanged(self) -> None:
        """Raise a RuntimeError if what it was made of has been changed in place."""
        for shard in self.shards:
            shard.check_unchanged()

    def _apply(self, rows: Array, out: Array) -> None:
        self._product(rows, out)

    def __repr__(self) -> str:
        p, n = self.shape[0], sum(len(shard.X) for shard in self.shards)
        where = ", ".join(shard.device for shard in self.shards)
        return f"ShardedGaussNewton({p} x {p}, {self.shards[0].loss}, {n} samples on {where}, {np.dtype(self.dtype)})"
