"""The Python of a Markdown page, as one reader would paste it, top to bottom: `python tests/documents.py PAGE` runs it
here, and so makes the pictures that the page shows."""

from __future__ import annotations

import doctest
import re
import sys
from pathlib import Path
from typing import Any

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]+)\)")
# Numbers that somebody has measured: with a point or an exponent, or of three digits.
MEASURED = re.compile(r"(?<![\w.^])\d+(?:[.,]\d+)*(?:e[+-]?\d+)?(?![\w^])")


def python_blocks(text: str) -> list[tuple[int, str]]:
    """(line of the first statement, source) of every ```python block."""
    found = (match for match in BLOCK.finditer(text) if match[1] == "python")
    return [(text[: match.start(2)].count("\n") + 1, match[2]) for match in found]


def run(text: str, name: str, variables: dict[str, Any]) -> None:
    """Run the blocks in one namespace: those with >>> as doctests, the others as they stand."""
    for line, source in python_blocks(text):
        if ">>>" not in source:
            exec(compile("\n" * (line - 1) + source, name, "exec"), variables)
            continue
        test = doctest.DocTestParser().get_doctest(source, variables, f"{name}:{line}", name, line - 1)
        report: list[str] = []
        doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.append, clear_globs=False)
        assert not report, "".join(report)
        variables.update(test.globs)


def unproven_numbers(text: str) -> set[str]:
    """Measured numbers of the prose that no block shows: those that running the page does not check."""
    blocks = "\n".join(match[2] for match in BLOCK.finditer(text))
    return {found for found in measured(BLOCK.sub("", text)) if found not in set(measured(blocks))}


def dangling_links(page: Path) -> set[str]:
    """Relative links of a page that lead to no file, or to no heading of it."""
    found = set()
    for target in LINK.findall(BLOCK.sub("", page.read_text())):
        name, _, heading = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists() or (heading and heading not in _headings(file.read_text())):
            found.add(target)
    return found


def _headings(text: str) -> set[str]:
    """The anchors that headings have on GitHub."""
    titles = re.findall(r"^#+ (.+)$", BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def measured(text: str) -> list[str]:
    """The numbers of a text that somebody has measured."""
    return [found for found in MEASURED.findall(text) if len(re.sub(r"\D", "", found)) > 2 or re.search(r"[.e]", found)]


if __name__ == "__main__":
    page = Path(sys.argv[1])
    run(page.read_text(), str(page), {"__name__": page.stem})
