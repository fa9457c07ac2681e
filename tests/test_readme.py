"""What README.md and docs show must work: the Python blocks of a page run, top to bottom, as a reader would paste them."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": [], "docs/pytorch.md": ["torch"]}  # and what they need besides
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def python_blocks(text: str) -> list[tuple[int, str]]:
    """(line of the first statement, source) of every ```python block."""
    found = re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [(text[: match.start(1)].count("\n") + 1, match[1]) for match in found]


def run(text: str, name: str, variables: dict[str, Any]) -> None:
    """Run the blocks in one namespace: those with >>> as doctests, the others as they stand."""
    for line, source in python_blocks(text):
        if ">>>" not in source:
            exec(compile("\n" * (line - 1) + source, name, "exec"), variables)
            continue
        test = doctest.DocTestParser().get_doctest(source, variables, name, name, line - 1)
        report: list[str] = []
        doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.append, clear_globs=False)
        assert not report, "".join(report)
        variables.update(test.globs)


@pytest.mark.parametrize("page", PAGES)
def test_code_on_pages_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in PAGES[page]:
        pytest.importorskip(package)
    text = (ROOT / page).read_text()
    assert python_blocks(text), f"{page} shows no Python"
    monkeypatch.chdir(tmp_path)  # what the examples write stays out of the repository
    run(text, str(ROOT / page), {"__name__": "page"})


def test_wrong_code_is_caught() -> None:
    run("```python\nx = 2\n```\n\n```python\n>>> x + 1\n3\n>>> y = x\n```\n```python\nassert y == 2\n```\n", "good", {})
    with pytest.raises(AssertionError, match="Expected"):
        run("```python\n>>> 1 + 1\n3\n```\n", "wrong value", {})
    with pytest.raises(NameError):
        run("text\n```python\nnothing\n```\n", "error", {})
