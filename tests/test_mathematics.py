"""docs/mathematics.md and docs/decisions: references find a section, and the tests and code that are named exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "mathematics.md"
ROW = "| formula | in the code | checked by |"
NAMED = r"\b((?:tests|benchmarks)/[\w/]+\.(?:py|cpp|sh)(?:::\w+)?)"
SUFFIXES = {".py", ".pyi", ".hpp", ".cpp", ".cu", ".cuh", ".md"}


def sections(text: str) -> set[str]:
    """The anchors of a page's headings."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def wrong_references(text: str, known: set[str]) -> list[str]:
    """References to sections that are not there, and formulas that are cited in another way than by a section."""
    found = [name for name in re.findall(r"mathematics\.md#([\w-]+)", text) if name not in known]
    return found + re.findall(r"\bMATH[: ]\s*\S+", text)


def rows(text: str) -> list[tuple[str, list[str], list[str]]]:
    """(formula, names in the code, names of tests) of every row of the tables."""
    found, inside = [], False
    for line in text.splitlines():
        inside = line == ROW or (inside and line.startswith("|"))
        if inside and line != ROW and not line.startswith("|--"):
            what, code, tests = re.split(r" \| ", line.strip("| "))
            found.append((what, re.findall(r"`([^`]+)`", code), re.findall(r"`([^`]+)`", tests)))
    return found


def defines(path: Path, name: str) -> bool:
    """Whether a module has a function or class of this name at its top, or takes one from another module."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.ImportFrom):
            found.update(alias.asname or alias.name for alias in node.names)
    return name in found


def missing(name: str, root: Path) -> bool:
    """Whether nothing is there by a name: gnfast.module, gnfast.room.name, csrc/..., tests/file, tests/file::test."""
    if "/" in name:
        path, _, test = name.partition("::")
        return not (root / path).is_file() or (bool(test) and not defines(root / path, test))
    module = root.joinpath("src", *name.split("."))
    above = (module.parent.with_suffix(".py"), module.parent / "__init__.py")
    return not module.with_suffix(".py").is_file() and not any(
        file.is_file() and defines(file, module.name) for file in above
    )


def test_references_lead_to_sections() -> None:
    known, faults, count = sections(PAGE.read_text()), {}, 0
    for folder in ("src", "csrc", "docs"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in SUFFIXES:
                text = path.read_text()
                count += text.count("mathematics.md#")
                if wrong := wrong_references(text, known):
                    faults[str(path.relative_to(ROOT))] = wrong
    assert faults == {}
    assert count > 5


def test_what_the_page_names_exists() -> None:
    table = rows(PAGE.read_text())
    assert len(table) > 60
    assert [what for what, code, tests in table if not code or not tests] == []
    assert [name for _, code, tests in table for name in code + tests if missing(name, ROOT)] == []


def test_what_decisions_name_exists() -> None:
    """A figure or a claim stays in a decision with the test or the benchmark that shows it."""
    pages = {path: path.read_text() for path in (ROOT / "docs" / "decisions").glob("*.md")}
    named = {(path.name, name) for path, text in pages.items() for name in re.findall(NAMED, text)}
    assert len(named) > 20
    assert [(page, name) for page, name in sorted(named) if missing(name, ROOT)] == []


def test_every_section_says_where_its_formulas_are() -> None:
    parts = re.split(r"^## (.+)$", PAGE.read_text(), flags=re.MULTILINE)
    assert [title for title, body in zip(parts[1::2], parts[2::2], strict=True) if not rows(body)] == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("as in docs/mathematics.md#losses", []),
        ("as in docs/mathematics.md#gains", ["gains"]),
        ("the joint law of both (MATH 10)", ["MATH 10)"]),
        ("a kernel (MATH: G)", ["MATH: G)"]),
        ("SDPBackend.MATH):", []),
    ],
)
def test_planted_references_are_caught(text: str, fault: list[str]) -> None:
    assert wrong_references(text, {"losses"}) == fault


@pytest.mark.parametrize(
    "name",
    [
        "gnfast.bounds.none",
        "gnfast.bounds.linear.none",
        "gnfast.none",
        "csrc/algo/none.hpp",
        "tests/test_none.py",
        "tests/test_mathematics.py::test_none",
    ],
)
def test_planted_names_are_caught(name: str) -> None:
    assert missing(name, ROOT)
