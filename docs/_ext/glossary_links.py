"""Link the first use of each term on a page to the glossary, and give each entry of the glossary an anchor."""

import re
from dataclasses import dataclass
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

GLOSSARY = "docs/glossary"
PAGES = re.compile(r"(notebooks|docs)/(?!api/|glossary$|index$|upgrading$)")
"""Pages whose terms are linked."""
ORDINARY = set(
    "block clear conflict context difficulty entity escape example fact gate head independent label length "
    "likelihood merge moment outlier overlap pair plan policy pool power prior process profile refresh refused report "
    "residual response resume rule run signal source split stage student surprise test topic".split()
)
"""Terms that are also ordinary words: linked only where they are emphasized."""
CLOSED = (nodes.title, nodes.reference, nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw,
          nodes.table, nodes.caption, addnodes.download_reference, addnodes.compact_paragraph)  # fmt: skip
"""Text in these nodes is not linked."""


@dataclass(frozen=True)
class Term:
    """An entry of the glossary: its anchor, what it is called, and its definition."""

    anchor: str
    phrases: tuple[str, ...]
    definition: str


def read_terms(markdown: str) -> list[Term]:
    """Return the entries of the glossary: `- **term** (symbol): definition`.

    A term with a qualifier, such as "level (curriculum)", has several meanings and so no phrases to look for. An
    abbreviation in parentheses is a phrase of its own.
    """
    entries = []
    for item in re.split(r"^(?=- \*\*|#)", markdown, flags=re.M):
        if entry := re.match(r"- \*\*(.+?)\*\*(?: \((.*)\))?: (.*)", " ".join(item.split())):
            bold, symbol, definition = entry.groups()
            phrases = () if "(" in bold else tuple(bold.split(", "))
            if abbreviation := re.match(r"[A-Z][A-Za-z]*[A-Z](?=\(|$)", symbol or ""):
                phrases += (abbreviation[0],)
            entries.append(Term(anchor_of(bold), phrases, definition))
    return entries


def anchor_of(name: str) -> str:
    """Return the anchor of a term."""
    return "term-" + re.sub(r"\W+", "-", name.lower()).strip("-")


def pattern(phrase: str) -> str:
    """Return an expression for a phrase, also in the plural; in any case, unless it is an abbreviation."""
    words = re.escape(phrase).replace("\\ ", r"\s+").replace("'", "['’]")
    words = words[:-1] + "(?:y|ies)" if phrase.endswith("y") and phrase[-2:-1] not in "aeiou" else words + "(?:e?s)?"
    return words if phrase.isupper() else f"(?i:{words})"


def is_open(text: nodes.Text) -> bool:
    """Return whether a link may be put into this text."""
    node = text.parent
    while node is not None:
        if isinstance(node, CLOSED):
            return False
        node = node.parent
    return True


def link_first_uses(document: nodes.document, terms: list[Term], address: str) -> None:
    """Replace the first use of each term by a link, with the definition as its title. Longer terms are found first."""
    phrases = sorted(((phrase, term) for term in terms for phrase in term.phrases), key=lambda pair: -len(pair[0]))
    alternatives = "|".join(f"({pattern(phrase)})" for phrase, _ in phrases)
    expression = re.compile(rf"(?<![\w-])(?:{alternatives})(?![\w-])")
    done: set[Term] = set()
    for text in [node for node in document.findall(nodes.Text) if is_open(node)]:
        emphasized = isinstance(text.parent, nodes.emphasis | nodes.strong)
        parts: list[nodes.Node] = []
        end = 0
        for found in expression.finditer(text):
            phrase, term = phrases[(found.lastindex or 1) - 1]
            if term not in done and (phrase not in ORDINARY or emphasized):
                done.add(term)
                link = nodes.reference("", found[0], refuri=f"{address}#{term.anchor}", internal=True,
                                       reftitle=term.definition, classes=["glossary-term"])  # fmt: skip
                parts += [nodes.Text(text[end : found.start()]), link]
                end = found.end()
        if parts:
            text.parent.replace(text, [*parts, nodes.Text(text[end:])])


def add_anchors(document: nodes.document, terms: list[Term]) -> None:
    """Give the list items of the glossary their anchors."""
    by_name = {term.anchor: term for term in terms}
    for item in document.findall(nodes.list_item):
        bold = next(iter(item.findall(nodes.strong)), None)
        anchor = anchor_of(bold.astext()) if bold else ""
        if anchor in by_name:
            item["ids"].append(anchor)


def process(app: Sphinx, document: nodes.document, docname: str) -> None:
    """Change a page before it is written."""
    terms = read_terms(Path(app.env.doc2path(GLOSSARY)).read_text(encoding="utf-8"))
    if docname == GLOSSARY:
        add_anchors(document, terms)
    elif PAGES.match(docname):
        link_first_uses(document, terms, app.builder.get_relative_uri(docname, GLOSSARY))


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the hook."""
    app.connect("doctree-resolved", process)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
