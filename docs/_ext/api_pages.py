"""Write the pages of the API reference, one for each row of the table of packages in docs/design.md, in its order.

A page has the public names of its modules with their docstrings. The pages are written to docs/api, which git ignores.
"""

import ast
import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

import icft_lite

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "icft_lite"


def packages(design: str) -> list[tuple[list[str], str]]:
    """Return (names, what they contain) of each row of the section "Package structure" that has Python modules."""
    table = design.split("## Package structure")[1].split("\n\n")[2]
    rows = [re.fullmatch(r"\| (`.*?`) \| (.*) \|", line) for line in table.splitlines()]
    found = [(re.findall(r"`(\w+)(?:\.py|/)`", row[1]), row[2]) for row in rows if row]
    return [(names, contents) for names, contents in found if any(modules(name) for name in names)]


def modules(name: str) -> list[Path]:
    """Return the files of a module or of a package's modules, in the order in which its docstring names them."""
    folder = PACKAGE / name
    if not folder.is_dir():
        return [folder.with_suffix(".py")]
    files = [path for path in folder.rglob("*.py") if not re.match(r"_(?!_init_)", path.name)]
    described = [path for path in files if ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]
    if len(described) <= 1:
        return []
    text = (folder / "__init__.py").read_text(encoding="utf-8")

    def place(path: Path) -> tuple[int, str]:
        position = text.find(f"`{path.stem}`")
        return (-1 if path.parent == folder and path.stem == "__init__" else position if position >= 0 else len(text),
                path.as_posix().replace("__init__", ""))  # fmt: skip

    return sorted(described, key=place)


def module_section(path: Path) -> str:
    """Return the section of one module: its docstring and the public names that it defines."""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    own = [node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name[0] != "_"]
    members = "\n   :members:\n   :ignore-module-all:\n   :show-inheritance:" if own or path.stem != "__init__" else ""
    title = name.removeprefix("icft_lite.")
    return f"## `{title}`\n\n```{{eval-rst}}\n.. automodule:: {name}{members}\n```\n"


def public_names() -> str:
    """Return a table of the names that `from icft_lite import …` offers, with the first paragraph of their texts."""
    rows = ["| name | description |", "|---|---|"]
    for name in icft_lite.__all__:
        if home := icft_lite._HOME.get(name):
            module, value = f"icft_lite.{home}", getattr(icft_lite, name)
            constants = ModuleAnalyzer.for_module(module).find_attr_docs()
            text = value.__doc__ if callable(value) else "\n".join(constants.get(("", name), []))
            rows.append(f"| {{py:obj}}`{name} <{module}.{name}>` | {first_line(text or '')} |")
    return "\n".join(rows)


def first_line(docstring: str) -> str:
    """Return the first paragraph of a docstring as one line of a table."""
    return " ".join(docstring.split("\n\n")[0].split()).replace("|", "\\|")


def write_pages(app: Sphinx) -> None:
    """Write docs/api. Files with the same content are left, so that their pages are not built again."""
    folder = ROOT / "docs" / "api"
    folder.mkdir(exist_ok=True)
    pages = {}
    for names, contents in packages((ROOT / "docs" / "design.md").read_text(encoding="utf-8")):
        sections = [module_section(path) for name in names for path in modules(name)]
        summary = contents[0].upper() + contents[1:]
        pages["_".join(names)] = f"# {', '.join(names)}\n\n{summary}.\n\n" + "\n".join(sections)
    entries = "\n".join(pages)
    pages["index"] = (
        "# API reference\n\nThese names are imported from the package itself, for example "
        "`from icft_lite import train_icft`. They are loaded on first use.\n\n"
        f"{public_names()}\n\n## Modules\n\nThe pages follow the order in which data passes through a run.\n\n"
        f"```{{toctree}}\n:maxdepth: 1\n\n{entries}\n```\n"
    )
    for old in folder.glob("*.md"):
        if old.stem not in pages:
            old.unlink()
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the hook, before Sphinx looks for pages."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
