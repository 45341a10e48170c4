"""Serve MathJax from the site: copy what pages load from the package sphinx-mathjax-offline.

That package is no extension here, because it copies 24 MB of which pages load one.
"""

import shutil
from importlib.util import find_spec
from pathlib import Path

from sphinx.application import Sphinx

SCRIPT = "tex-chtml-full.js"
"""MathJax with all TeX extensions."""
FOLDERS = ("output/chtml/fonts/woff-v2", "a11y")
"""Its fonts, and what its menu for screen readers loads."""


def copy_mathjax(app: Sphinx, exception: Exception | None) -> None:
    """Copy the files at the end of a successful build."""
    package = find_spec("sphinx-mathjax-offline")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("sphinx-mathjax-offline is missing: pip install -c constraints.txt -e '.[docs]'")
    source, target = Path(package.origin).parent / "static" / "mathjax", app.outdir / "_static" / "mathjax"
    if exception is None:
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / SCRIPT, target / SCRIPT)
        for folder in FOLDERS:
            shutil.copytree(source / folder, target / folder, dirs_exist_ok=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Set the address of MathJax and connect the hook."""
    app.config.mathjax_path = f"mathjax/{SCRIPT}"
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
