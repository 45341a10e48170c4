"""The copy of the package that student code imports, without the code that an assignment asks for."""

import ast
import compileall
import keyword
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from icft_lite.data.samples import samples_dir
from icft_lite.errors import ICFTError

PACKAGE = Path(__file__).parents[1]
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
UNAVAILABLE = "is not available while this part is graded"
"""In the message of removed code."""
GRAM, MIN_GRAMS = 8, 40
"""Tokens in a row that are compared at a time (k-grams, as in Schleimer, Wilkerson and Aiken, "Winnowing", 2003), and
the smallest number of them that says something."""
COPIED, ALIKE, MIN_ALIKE = 0.6, 0.8, 0.5
"""Shares of k-grams from which a function of the package, and a public solution, is seen as copied; the share of the
parts that must be copied for a flag. Short parts are often solved in the same way twice: an independent solution of A4
had three of nine."""


def copy_package(folder: Path, blocked: Iterable[str]) -> dict[str, list[str]]:
    """Copy the package and the samples to `folder`/icft_lite, with the blocked code removed.

    blocked: dotted names of functions, methods, classes or modules of icft_lite. Every function in them then raises
    NotImplementedError. The names stay, so that other modules can import them.
    Returns {name: sources of the functions that were removed}. Raises ICFTError for a name that is not defined.
    """
    no_cache = shutil.ignore_patterns("__pycache__")  # compiled files would still have the removed code
    shutil.copytree(PACKAGE, folder / "icft_lite", ignore=no_cache)
    shutil.copytree(samples_dir(), folder / "icft_lite" / "data_samples", ignore=no_cache, dirs_exist_ok=True)
    removed = {name: remove(folder, name) for name in sorted(set(blocked))}
    compileall.compile_dir(folder, quiet=2)
    make_readable(folder)
    return removed


def make_readable(folder: Path) -> None:
    """Let other users read a folder and all in it, whatever the umask is and the files copied from had."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def remove(folder: Path, name: str) -> list[str]:
    """Remove what the dotted `name` defines from the copy in `folder`. Returns the sources of the functions in it."""
    path, names = folder, name.split(".")
    while names and (path / names[0]).is_dir():
        path /= names.pop(0)
    file = path / f"{names.pop(0)}.py" if names and (path / f"{names[0]}.py").is_file() else path / "__init__.py"
    found: ast.AST | None
    text = file.read_text(encoding="utf-8") if name.startswith("icft_lite.") else ""
    found = tree = ast.parse(text)
    for one in names:
        inside = getattr(found, "body", [])
        found = next((node for node in inside if isinstance(node, DEFINITIONS) and node.name == one), None)
    if found is None or not getattr(found, "body", None):
        raise ICFTError(f"blocked name {name!r}: the package does not define it; name it by the module that defines it")
    functions = [node for node in ast.walk(found) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    sources = [ast.get_source_segment(text, node) or "" for node in functions]
    stop = f"raise NotImplementedError({f'{name} {UNAVAILABLE}'!r})"
    for node in functions:
        node.body = ast.parse(stop).body
    file.write_text(ast.unparse(tree), encoding="utf-8")
    return sources


def overlap(text: str, sources: Iterable[str]) -> float:
    """Return the largest share of the k-grams of a source that `text` has too, from 0 to 1.

    Names are treated as equal, so that renaming does not hide a copy. Comments and docstrings are left out. Sources
    with fewer than MIN_GRAMS k-grams are left out, because independent solutions of them are alike.
    """
    found = grams(text)
    wanted = [grams(source) for source in sources]
    return max((len(found & one) / len(one) for one in wanted if len(one) >= MIN_GRAMS), default=0.0)


def copied_parts(text: str, solutions: Mapping[str, str]) -> list[str]:
    """Return the parts whose public solution is in `text`, whatever the names are; none if they are fewer than half.

    solutions: id of a part → source of its public solution.
    """
    found = [part for part, source in solutions.items() if overlap(text, [source]) >= ALIKE]
    return found if len(found) >= MIN_ALIKE * len(solutions) else []


def grams(text: str) -> set[tuple[str, ...]]:
    """Return the k-grams of the tokens of Python code."""
    tokens = normalized(text)
    return set(zip(*(tokens[i:] for i in range(GRAM))))


def normalized(text: str) -> list[str]:
    """Return the tokens of Python code, with every name that is not a keyword replaced by "n".

    It works on code that Python cannot parse, and never runs it.
    """
    text = re.sub(r'"""(?s:.*?)"""|#[^\n]*', " ", text)
    tokens = re.findall(r"[^\W\d]\w*|\d[\w.]*|[^\s\w]", text)
    return [token if keyword.iskeyword(token) or not token.isidentifier() else "n" for token in tokens]
