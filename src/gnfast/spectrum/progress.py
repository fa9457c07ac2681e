"""Reports of progress, as the argument `progress` of long work asks for them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from gnfast import _core


class Stage(str):
    """The name of a stage of long work.

    Attributes:
        residual: The largest residual of the eigenpairs that are sought, None where there is none (yet).
    """

    residual: float | None = None

    @classmethod
    def of(cls, name: str, residual: float | None) -> Stage:
        """A stage with its residual."""
        stage = cls(name)
        stage.residual = residual
        return stage


@contextlib.contextmanager
def reporting(progress: Any) -> Iterator[_core.Progress]:
    """The callback that the argument `progress` asks for."""
    if progress is None or progress is False:
        yield None
    elif progress is True:
        try:
            yield _print_line
        finally:
            print(file=sys.stderr)
    elif callable(progress):

        def report(stage: str, done: float, total: float, residual: float | None = None) -> None:
            progress(Stage.of(stage, residual), done, total)

        yield report
    else:
        raise TypeError(f"progress is of type {type(progress).__name__} but must be True, None or a callable")


def _print_line(stage: str, done: float, total: float, residual: float | None = None) -> None:
    share = f"{done / total:4.0%}" if total else f"{int(done)} products"
    accuracy = "" if residual is None else f", residual {residual:.1e}"
    print(f"\r{f'{stage}: {share}{accuracy}':<78}", end="", file=sys.stderr, flush=True)
