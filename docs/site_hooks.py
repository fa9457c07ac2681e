"""The site's pages that lie elsewhere in the repository, and the links to them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks.md",
}
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


def _page_of(link: str) -> str:
    return ELSEWHERE.get(link, link.removeprefix("docs/"))
