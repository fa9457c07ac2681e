"""What an extra brings is named wherever it is missing, and is what the package declares."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import gnfast
from gnfast import _extras

ROOT = Path(__file__).resolve().parents[1]
DECLARED: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]
# As build backends write them: the marker of an extra beside others, either quotes, names in any spelling.
LINES = ["numpy>=2.0"] + [
    f"{one} ; python_version > '3' and extra == '{extra.replace('-', '_')}'" if i % 2 else f'{one}; extra == "{extra}"'
    for extra, needed in DECLARED.items()
    for i, one in enumerate(needed)
]


def closure(extra: str) -> list[str]:
    """What it asks for, by the table alone."""
    found = []
    for one in DECLARED[extra]:
        inner = re.fullmatch(r"gnfast\[(.*)\]", one)
        found += [deep for part in inner[1].split(",") for deep in closure(part)] if inner else [one]
    return sorted(set(found))


@pytest.mark.parametrize("extra", DECLARED)
def test_the_hint_is_what_the_extra_declares(extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: LINES)
    command = _extras.install(extra)
    assert command.startswith("pip install '") and "gnfast" not in command
    assert sorted(re.findall(r"'([^']+)'", command)) == closure(extra)


def test_a_clone_that_is_not_installed_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    assert _extras.install("torch") == "pip install '.[torch]' in a clone of gnfast"


def asked() -> set[tuple[str, str]]:
    """(module, extra) of every optional import."""
    found = set()
    for file in Path(gnfast.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("optional_import"):
                module, _, extra = node.args
                found.add((ast.literal_eval(module).partition(".")[0], ast.literal_eval(extra)))
    return found


def test_the_extra_that_is_named_brings_the_module() -> None:
    brought_by = metadata.packages_distributions()
    pairs = asked()
    assert len(pairs) >= 10
    for module, extra in pairs:
        if module not in brought_by:
            continue  # not installed here: nothing tells whose it is
        named = closure(extra)
        brought = {distribution(one) for one in [*named, *(deep for one in named for deep in needs(one))]}
        assert brought & {distribution(name) for name in brought_by[module]}, (module, extra)


def needs(requirement: str) -> list[str]:
    """What an installed distribution asks for, with the extras that the requirement names."""
    extras = re.findall(r"\[(\w+)\]", requirement)
    try:
        lines = metadata.requires(distribution(requirement)) or []
    except metadata.PackageNotFoundError:
        return []
    return [
        one for one in lines if "extra ==" not in one or any(re.search(rf"['\"]{extra}['\"]", one) for extra in extras)
    ]


def distribution(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def test_pages_name_extras_as_a_clone_has_them() -> None:
    pages = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "benchmarks").glob("*.md"),
    ]
    named = set()
    for page in pages:
        text = page.read_text()
        assert not re.search(r"pip install [^`\n]*gnfast\[", text), (
            f"{page.name}: pip looks for gnfast[...] where it is published"
        )
        named |= {extra for found in re.findall(r"'\.\[([\w,-]+)\]'", text) for extra in found.split(",")}
    assert {"study", "test", "torch", "jax"} <= named <= set(DECLARED)


def test_the_citation_is_of_this_version() -> None:
    """As a file for people and machines: its few lines are plain YAML."""
    lines = (ROOT / "CITATION.cff").read_text().splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"version: {project['version']}" in lines and f"license: {project['license']}" in lines
    assert (ROOT / "LICENSE").read_text().startswith("BSD 3-Clause License")
