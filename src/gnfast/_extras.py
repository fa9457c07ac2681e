"""The extras of this package, read off the package's own metadata."""

from __future__ import annotations

import re
from importlib import metadata

_OF_EXTRA = re.compile(r"""\bextra\s*==\s*["']([^"']+)["']""")
_OURSELVES = re.compile(r"gnfast\s*\[([^\]]*)\]")


def install(extra: str) -> str:
    """A command that installs what an extra brings, wherever gnfast itself came from.

    It names the other packages rather than ``gnfast[extra]``, which pip could only look for where gnfast is published.
    """
    try:
        needed = requirements(extra, metadata.requires("gnfast") or [])
    except metadata.PackageNotFoundError:  # run from its sources, not installed
        needed = []
    if not needed:
        return f"pip install '.[{extra}]' in a clone of gnfast"
    return "pip install " + " ".join(f"'{one}'" for one in needed)


def requirements(extra: str, lines: list[str]) -> list[str]:
    """The requirements of an extra among the lines ``Requires-Dist``, with those of the extras that it names."""
    found: dict[str, None] = {}  # in order, each once
    for line in lines:
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        named = _OF_EXTRA.search(marker)
        if named is None or _normal(named[1]) != _normal(extra):
            continue
        ourselves = _OURSELVES.match(requirement)
        parts = ourselves[1].split(",") if ourselves else []
        found |= dict.fromkeys(
            [requirement] if not parts else [one for part in parts for one in requirements(part, lines)]
        )
    return list(found)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
