"""The site's pages that lie elsewhere in the repository, the links to them, and formulas as MathML."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks.md",
}
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
LINK = re.compile(r"(\]\()([^)#\s:]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are kept where readers of the repository look for them."""
    for path, page in ELSEWHERE.items():
        text = LINK.sub(lambda found: found[1] + _page_of(found[2]), (ROOT / path).read_text())
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let the links of pages in docs/ that leave the folder lead to those pages."""
    return LINK.sub(lambda found: found[1] + ELSEWHERE.get(found[2].removeprefix("../"), found[2]), markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Write formulas as MathML, which browsers show by themselves."""
    return FORMULA.sub(
        lambda found: convert(unescape(found[3]), display="block" if found[2] == "[" else "inline"), html
    )


def _page_of(link: str) -> str:
    return ELSEWHERE.get(link, link.removeprefix("docs/"))
