"""What the documents show must work, and what they say must be what it gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import documents
import pytest
import site_links

ROOT = Path(__file__).resolve().parents[1]


EVERY = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# docs/tools.md has a test of its own, since not every tool is at hand; docs/gpu.md needs a GPU.
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.stem not in ("tools", "gpu")),
]
NEEDS = {"jax.md": "matfree"}


@pytest.mark.parametrize(
    "page", [page for page in PAGES if documents.python_blocks(page.read_text())], ids=lambda p: p.name
)
def test_code_runs_in_a_fresh_process(page: Path, tmp_path: Path) -> None:
    pytest.importorskip(NEEDS.get(page.name, "torch"))
    command = [sys.executable, "-W", "error::SyntaxWarning", documents.__file__, str(page)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    path = os.pathsep.join(filter(None, sys.path))
    # What the examples write stays out of the repository.
    ran = subprocess.run(command, cwd=tmp_path, env={**os.environ, **threads, "PYTHONPATH": path}, capture_output=True)
    assert ran.returncode == 0, ran.stderr.decode()


def test_pages_with_code_are_found() -> None:
    assert {"README.md", "start.md", "tutorial.md", "jax.md"} < {
        page.name for page in PAGES if documents.python_blocks(page.read_text())
    }


@pytest.mark.parametrize("page", EVERY, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert documents.dangling_links(page) == set()


def test_wrong_links_of_a_site_are_caught(tmp_path: Path) -> None:
    (tmp_path / "b.html").write_text("<h1 id='here'>b</h1>")
    (tmp_path / "a.html").write_text(
        "<a href='b.html#here'>1</a><a href='#none'>2</a><a href='c.html'>3</a><a href='https://example.org'>4</a>"
        "<script src='https://example.org/x.js'></script><img src='b.html'>"
    )
    assert [line.split(" has a link to ")[-1] for line in site_links.wrong(tmp_path)] == [
        "#none, which has no such place",
        "c.html, where no file is",
        "a.html loads https://example.org/x.js",
    ]


def test_dangling_links_are_caught(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# Its `one` Title\n")
    page.write_text(
        "# Here\n[a](other.md) [b](other.md#its-one-title) [c](#here) ![d](none.png) [e](other.md#no) "
        "[f](https://example.org/none)\n```md\n[g](none.md)\n```\n"
    )
    assert documents.dangling_links(page) == {"none.png", "other.md#no"}


def test_the_tutorial_says_what_its_code_prints() -> None:
    assert documents.unproven_numbers((ROOT / "docs/tutorial.md").read_text()) == set()


@pytest.mark.parametrize("page", [page for page in EVERY if page.stem != "gallery"], ids=lambda page: page.name)
def test_lines_of_prose_have_a_hundred_columns(page: Path) -> None:
    prose = documents.BLOCK.sub("", page.read_text()).splitlines()
    assert [line for line in prose if len(line) > 100 and not line.startswith(("|", "!", "$$"))] == []


def test_performance_is_what_the_benchmarks_say() -> None:
    said, measured = (
        set(documents.measured((ROOT / page).read_text())) for page in ("docs/performance.md", "benchmarks/README.md")
    )
    assert len(said) > 50 and said <= measured


def test_wrong_code_is_caught() -> None:
    good = "```python\nx = 2\n```\n\n```python\n>>> x + 1\n3\n>>> y = x\n```\n```python\nassert y == 2\n```\n"
    documents.run(good, "good", {})
    with pytest.raises(AssertionError, match="Expected"):
        documents.run("```python\n>>> 1 + 1\n3\n```\n", "wrong value", {})
    with pytest.raises(NameError):
        documents.run("text\n```python\nnothing\n```\n", "error", {})


def test_unproven_numbers_are_caught() -> None:
    shown = "```python\n>>> kappa\n2.7e+07\n>>> n\n1234\n```\n"
    assert documents.unproven_numbers(f"It is 2.7e+07, of 1234; L = 4, 10^9.\n{shown}") == set()
    assert documents.unproven_numbers(f"It is 2.8e+07 or 3.5, of 123.\n{shown}") == {"2.8e+07", "3.5", "123"}
