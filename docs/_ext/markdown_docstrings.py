"""Read docstrings as Markdown, as they are written, where autodoc expects reStructuredText."""

from docutils import nodes
from docutils.statemachine import StringList
from docutils.utils import new_document
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Markdown(SphinxDirective):
    """The directive `markdown-text`: its content is Markdown."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the nodes of the content."""
        document = new_document(self.get_source_info()[0], self.state.document.settings)
        document.reporter = self.state.document.reporter
        MystParser().parse("\n".join(self.content), document)
        return document.children


def wrap(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str] | StringList) -> None:
    """Put the lines of a docstring into the directive, in place."""
    if any(lines):
        lines[:] = [".. markdown-text::", "", *(f"   {line}" for line in lines), ""]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive and the hook of autodoc."""
    app.add_directive("markdown-text", Markdown)
    app.connect("autodoc-process-docstring", wrap)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
