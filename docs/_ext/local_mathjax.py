"""Serve MathJax from the site: copy what pages load from the package sphinx-mathjax-offline.

That package is no extension here, because it copies 24 MB of which pages load one.
"""

import shutil
from importlib.util import find_spec
from pathlib import Path

from sphinx.application import Sphinx

SCRIPT = "tex-chtml-full.js"
PARTS = (SCRIPT, "output/chtml/fonts/woff-v2", "a11y")
"""The script with all TeX extensions, its fonts, and what its menu for screen readers loads."""


def copy_mathjax(app: Sphinx, exception: Exception | None) -> None:
    """Copy the files at the end of a successful build."""
    package = find_spec("sphinx-mathjax-offline")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("sphinx-mathjax-offline is missing: pip install -c constraints.txt -e '.[docs]'")
    if exception is None:
        for part in PARTS:
            source, target = Path(package.origin).parent / "static/mathjax" / part, app.outdir / "_static/mathjax" / part
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)


def setup(app: Sphinx) -> dict[str, bool]:
    """Set the address of MathJax and connect the hook."""
    app.config.mathjax_path = f"mathjax/{SCRIPT}"
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
