"""Links to files of the repository.

A relative link to a file that is no page of the site leads to the repository. A link to the repository's address of a
page, as lessons have them, leads to the page of the site.
"""

import posixpath
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform


def repository_path(docname: str, link: str) -> str:
    """Return the path in the repository of a relative link on a page."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(docname), link))


class RepositoryLinks(SphinxTransform):
    """Replace both kinds of links, before Sphinx collects the files to download."""

    default_priority = 200

    def apply(self, **kwargs: Any) -> None:
        """Replace the nodes in place."""
        base = f"{self.config.repository}/blob/{self.config.html_theme_options['repository_branch']}/"
        for node in list(self.document.findall(addnodes.download_reference)):
            if node.get("reftype") == "myst":
                path = repository_path(self.env.docname, node["reftarget"])
                node.replace_self(nodes.reference("", "", *inline(node), refuri=base + path))
        for node in list(self.document.findall(addnodes.pending_xref)):
            if node.get("refdomain") == "doc" and node["reftarget"] not in self.env.found_docs:
                names = [node["reftarget"] + suffix for suffix in self.config.source_suffix]
                path = next(name for name in names if (self.env.srcdir / name).is_file())
                node.replace_self(nodes.reference("", "", *inline(node), refuri=base + path))
        for node in list(self.document.findall(nodes.reference)):
            path, _, anchor = node.get("refuri", "").removeprefix(base).partition("#")
            docname = self.env.path2doc(path)
            if node.get("refuri", "").startswith(base) and docname in self.env.found_docs:
                target = addnodes.pending_xref(
                    "", nodes.inline("", "", *node.children), refdomain="doc", reftype="myst", refexplicit=True,
                    refdoc=self.env.docname, reftarget=docname, reftargetid=anchor or None,
                )  # fmt: skip
                node.replace_self(target)


def inline(node: nodes.Element) -> list[nodes.Node]:
    """Return the text of a link, without the wrapper that marks it as a download."""
    only = node.children[0] if len(node.children) == 1 else None
    return only.children if isinstance(only, nodes.inline) else node.children


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the transform and the setting `repository`, the address from pyproject.toml."""
    app.add_config_value("repository", "", "env", str)
    app.add_transform(RepositoryLinks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
