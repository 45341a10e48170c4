"""Check the built documentation site.

    python scripts/check_site.py dist/site

Prints `page: problem` for each of these and exits with 1 if there are any: a link to a page, file or anchor of the site
that does not exist; an image without alternative text; a script, style, image or frame that a browser would load from
another server.
"""

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "embed": "src", "object": "data"}
"""Elements that load something, and the attribute with its address; `link` is handled by its `rel`."""
NOT_LOADED = {"canonical", "next", "prev", "author", "license", "index", "search", "alternate"}
"""Relations of a `link` that a browser does not load."""


class Page(HTMLParser):
    """The anchors, links and problems of one page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.problems: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Read one element."""
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        loaded = values.get(LOADED.get(tag, ""), "")
        if tag == "link" and not NOT_LOADED & set(values.get("rel", "").split()):
            loaded = values.get("href", "")
        if urlsplit(loaded).netloc:
            self.problems.append(f"loads {loaded} from another server")
        self.links += [address for address in (values.get("href", ""), loaded) if address]
        if tag == "img" and not values.get("alt", "").strip():
            self.problems.append(f"image {values.get('src', '')[:80]} has no alternative text")
        if tag == "svg" and not {"aria-label", "aria-labelledby", "aria-hidden"} & set(values):
            self.problems.append("an inline SVG has no aria-label")


def read_site(folder: Path) -> dict[Path, Page]:
    """Return the pages of a site by their resolved paths. Those in _static are templates of the theme."""
    files = [path for path in sorted(folder.rglob("*.html")) if "_static" not in path.relative_to(folder).parts]
    return {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in files}


def check_links(path: Path, page: Page, pages: dict[Path, Page]) -> Iterator[str]:
    """Yield the links of a page that lead nowhere on the site. Other servers are not asked."""
    for link in dict.fromkeys(page.links):
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        anchor = unquote(parts.fragment)
        if not target.exists():
            yield f"{link} does not exist"
        elif anchor and target in pages and anchor not in pages[target].anchors:
            yield f"{link}: the page has no anchor {anchor}"


def check_site(folder: Path) -> list[str]:
    """Return the problems of a site, as `page: problem`."""
    pages = read_site(folder)
    if not pages:
        return [f"{folder} has no pages"]
    return [
        f"{path.relative_to(folder.resolve()).as_posix()}: {problem}"
        for path, page in pages.items()
        for problem in (*page.problems, *check_links(path, page, pages))
    ]


if __name__ == "__main__":
    found = check_site(Path(sys.argv[1]))
    print("\n".join(found) or "The links, anchors and images of the site are right.")
    sys.exit(bool(found))
