"""The devices that tests run on, and operators there that take and give NumPy's arrays.

So the same test serves every device, while beneath it a GPU's operators get and give arrays on the GPU.
"""

from __future__ import annotations

import dataclasses
import inspect

import numpy as np

import gnfast as gn
from gnfast import _arrays
from gnfast.operators.linear_operator import BlockOperator


class Place(str):
    """The name of a device."""

    def put(self, array):
        """A copy on the device in the same order; on the CPU the array itself."""
        home = _arrays.device(str(self))
        is_fortran = array.flags.f_contiguous and not array.flags.c_contiguous
        return home.upload(array.T).T if is_fortran else home.upload(array)

    def dressed(self, thing):
        """An operator or function of this device for arrays of NumPy; on the CPU itself."""
        return thing if self == "cpu" else _Dressed(self, thing)

    def on(self, G):
        """The same Gauss-Newton operator on this device, dressed."""
        if self == "cpu":
            return G
        options = {"reduction": G.reduction, "method": G.method, "memory_limit": G.memory_limit}
        loss = G.loss if G.loss_at.blocks is None else G.loss_at.blocks
        return self.dressed(gn.GaussNewton(G.net, G.X, loss, device=self, weights=G.weights, **options))

    def _outward(self, found):
        """What a test may see: arrays copied to the host, operators and methods dressed."""
        if isinstance(found, BlockOperator) or inspect.isroutine(found):
            return _Dressed(self, found)
        if isinstance(found, tuple) and hasattr(found, "_fields"):
            return type(found)(*map(self._outward, found))
        if isinstance(found, list | tuple):
            return type(found)(map(self._outward, found))
        if isinstance(found, gn.Diagonal):
            parts = {name: _arrays.to_host(getattr(found, name)) for name in ("values", "error")}
            return dataclasses.replace(found, **parts)
        return _arrays.to_host(found)

    def _inward(self, given):
        if isinstance(given, _Dressed):
            return given._thing
        return self.put(given) if isinstance(given, np.ndarray) else given


CPU = Place("cpu")


class _Dressed:
    def __init__(self, place, thing):
        self._place, self._thing = place, thing

    def __getattr__(self, name):
        return self._place._outward(getattr(self._thing, name))

    def __call__(self, *arguments, **options):
        inward = self._place._inward
        found = self._thing(*map(inward, arguments), **{name: inward(value) for name, value in options.items()})
        return self._place._outward(found)

    def __matmul__(self, V):
        return self._place._outward(self._thing @ self._place._inward(V))
