"""Prepare a lesson for the site, before it is parsed: buttons below the title, a text for each figure, no test marks.

The notebook itself is not changed.
"""

import ast
import json
import re
from base64 import b64decode
from io import BytesIO
from typing import Any

from PIL import Image
from sphinx.application import Sphinx

BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\(([^)]*)\)\n+")
CHECKED = "# NBVAL_CHECK_OUTPUT\n"
"""The mark of a cell whose output the tests compare."""
TITLE = re.compile(r"^# .*\n", re.M)
TITLES = {"set_title", "suptitle", "title"}
IMAGES = ("image/png", "image/svg+xml")


def source_of(cell: dict[str, Any]) -> str:
    """Return the text of a cell, which a notebook stores as text or as lines."""
    return "".join(cell["source"])


def with_buttons(text: str, name: str) -> str:
    """Replace the Colab badge of a first cell, an image on another server, by two links below the title."""
    badge = BADGE.search(text)
    if badge is None:
        return text
    buttons = f"[Open in Colab]({badge[1]}){{.lesson-button}} {{download}}`Download notebook <{name}.ipynb>`\n"
    return TITLE.sub(lambda title: f"{title[0]}\n{buttons}", BADGE.sub("", text), count=1)


def png_title(data: str) -> str:
    """Return the title in a PNG's text, which `icft_lite.reporting.style.png` writes; "" if there is none."""
    with Image.open(BytesIO(b64decode(data))) as image:
        return str(getattr(image, "text", {}).get("Title", ""))


def code_titles(code: str) -> str:
    """Return the titles that a cell's code gives to axes and figures, in order."""
    try:
        tree = ast.parse(re.sub(r"^\s*[%!].*$", "pass", code, flags=re.M))
    except SyntaxError:
        return ""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            named = getattr(node.func, "attr", "")
            values = [*(node.args[:1] if named in TITLES else []),
                      *(word.value for word in node.keywords if word.arg == "title")]  # fmt: skip
            found += [(node.lineno, value.value) for value in values if isinstance(value, ast.Constant)]
    return "; ".join(dict.fromkeys(str(value) for _, value in sorted(found, key=lambda pair: pair[0])))


def alternative_text(cell: dict[str, Any], output: dict[str, Any], heading: str) -> str:
    """Return a text for the image of an output.

    It is the output's own `alt` (that of IPython's `Image`), else the title stored in the PNG, else the titles in the
    cell's code, else the heading of the section.
    """
    for kind in IMAGES:
        if kind in output.get("data", {}):
            own = output.get("metadata", {}).get(kind, {}).get("alt")
            stored = png_title("".join(output["data"][kind])) if kind == "image/png" else ""
            return own or "Figure: " + (stored or code_titles(source_of(cell)) or heading)
    return ""


def prepare(notebook: dict[str, Any], name: str) -> None:
    """Change a notebook in place."""
    heading = name
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "markdown":
            if number == 0:
                cell["source"] = with_buttons(source_of(cell), name)
            heading = (re.findall(r"^#+ (.*)$", source_of(cell), re.M) or [heading])[-1]
        else:
            cell["source"] = source_of(cell).replace(CHECKED, "")
        for output in cell.get("outputs", []):
            image = cell["metadata"].setdefault("mystnb", {}).setdefault("image", {})
            if text := alternative_text(cell, output, heading):
                image.setdefault("alt", text)


def read_source(app: Sphinx, docname: str, content: list[str]) -> None:
    """Prepare the notebook that Sphinx has read."""
    if app.env.doc2path(docname).suffix == ".ipynb":
        notebook = json.loads(content[0])
        prepare(notebook, docname.rpartition("/")[2])
        content[0] = json.dumps(notebook)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the hook."""
    app.connect("source-read", read_source)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
