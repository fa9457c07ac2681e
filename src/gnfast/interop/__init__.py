"""Bridges to other libraries, one module each, imported when they are first asked for."""

from __future__ import annotations

import importlib
from types import ModuleType

BRIDGES = ("curvlinops", "hessian_eigenthings", "jax", "laplace", "lightning", "pyhessian", "torch")


def __getattr__(name: str) -> ModuleType:
    if name in BRIDGES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"gnfast.interop has no bridge to {name!r}, only to {', '.join(BRIDGES)}")


def __dir__() -> list[str]:
    return sorted(BRIDGES)
