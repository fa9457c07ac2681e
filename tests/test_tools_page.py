"""What docs/tools.md shows must work, section by section, as far as the tools are installed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from documents import python_blocks, run

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tools.md"
START, *SECTIONS = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
MODULES = {
    "curvlinops": "curvlinops",
    "Laplace": "laplace",
    "PyHessian": "pyhessian",
    "hessian-eigenthings": "hessian_eigenthings",
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.splitlines()[0])
def test_a_section_runs(section: str) -> None:
    pytest.importorskip("torch")
    pytest.importorskip(MODULES[section.splitlines()[0]])
    assert python_blocks(section), "the section shows no Python"
    variables: dict[str, Any] = {"__name__": "tools"}
    run(START, str(PAGE), variables)
    run(section, str(PAGE), variables)
