"""The least version that pyproject.toml declares of every dependency: `python3 .ci/lowest.py [EXTRA ...]`.

It prints requirements `name==version`, one a line: of what the package always needs, and of these extras.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
REQUIREMENT = re.compile(r"([\w.-]+)(\[[\w,-]+\])?(?:(?:>=|==)([\w.]+))?")


def lowest(extras: list[str]) -> list[str]:
    """`name==version` of each `name>=version`; an extra of ours stands for what it asks for."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    declared = project["optional-dependencies"]
    waiting = [*project["dependencies"], *(one for extra in extras for one in declared[extra])]
    found = set()
    while waiting:
        requirement = waiting.pop()
        match = REQUIREMENT.fullmatch(requirement)
        if match is None:
            raise SystemExit(f"{PROJECT}: {requirement!r} is neither NAME>=VERSION nor NAME==VERSION")
        name, parts, version = match.groups()
        if name == project["name"]:
            waiting += [one for part in parts.strip("[]").split(",") for one in declared[part]]
        elif version is None:
            raise SystemExit(f"{PROJECT}: {requirement!r} declares no least version")
        else:
            found.add(f"{name}{parts or ''}=={version}")
    return sorted(found)


if __name__ == "__main__":
    print(*lowest(sys.argv[1:]), sep="\n")
