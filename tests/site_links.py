"""Every link of a built site leads to a page and a place on it, and no page loads anything from elsewhere:
`python tests/site_links.py site`."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What an HTML page links to, what it loads, and the places that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value}
        self.places |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link" and "href" in given and given.get("rel") != "canonical":
            self.loaded.append(given["href"])
        if "src" in given:
            self.loaded.append(given["src"])


def wrong(site: Path) -> list[str]:
    """What is wrong with a site, a line each."""
    pages = {path: Page(path.read_text()) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        for target in [*page.links, *page.loaded]:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                if target in page.loaded and parts.scheme != "data":
                    found.append(f"{path.relative_to(site)} loads {target}")
                continue
            if path.name == "404.html":  # its links are from the root of a server
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
            file = file / "index.html" if file.is_dir() else file
            place = unquote(parts.fragment)
            if not file.is_file():
                found.append(f"{path.relative_to(site)} has a link to {target}, where no file is")
            elif (
                place
                and file.suffix == ".html"
                and place not in pages[site.resolve() / file.relative_to(site.resolve())].places
            ):
                found.append(f"{path.relative_to(site)} has a link to {target}, which has no such place")
    return found


if __name__ == "__main__":
    site = Path(sys.argv[1]).resolve()
    problems = wrong(site)
    print(*problems, f"{len(list(site.rglob('*.html')))} pages, {len(problems)} wrong links", sep="\n")
    sys.exit(bool(problems))
