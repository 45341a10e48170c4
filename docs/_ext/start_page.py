"""Write index.html, which leads to the start page: its source is docs/index.md, and addresses follow the sources."""

from collections.abc import Iterator
from typing import Any

from sphinx.application import Sphinx


def start_page(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield the page `index`, its context and its template."""
    yield "index", {"target": app.builder.get_relative_uri("index", app.config.root_doc)}, "start_page.html"


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the hook."""
    app.connect("html-collect-pages", start_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
