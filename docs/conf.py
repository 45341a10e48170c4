"""Settings of the documentation site. The source folder is the repository, so that links between files stay valid."""

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_ext")]

from icft_lite import __version__  # from this checkout

project = "icft-lite"
author = "the icft-lite authors"
copyright = author
release = version = __version__
language = "en"
root_doc = "docs/index"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    # those of docs/_ext
    "api_pages",
    "glossary_links",
    "lesson_pages",
    "local_mathjax",
    "markdown_docstrings",
    "repository_links",
    "start_page",
]
include_patterns = [
    "*.md",
    "docs/*.md",
    "docs/api/*.md",
    "notebooks/*.ipynb",
    "benchmarks/*.md",
    "data_samples/README.md",
    "icft_lite/tiny/README.md",
]
exclude_patterns = [".*", "build", "dist", "runs", "**/.*"]
repository = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]

# --- Markdown and notebooks: stored outputs, nothing is executed or loaded from other servers
myst_enable_extensions = ["attrs_inline", "attrs_block", "dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "off"
nb_ipywidgets_js: dict[str, dict[str, str]] = {}
# A widget's static form is in its text/html output.
nb_mime_priority_overrides = [("*", "application/vnd.jupyter.widget-view+json", None)]
nb_merge_streams = True

# --- API reference
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

# --- HTML
html_theme = "sphinx_book_theme"
html_title = "icft-lite"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
templates_path = ["_templates"]
copybutton_exclude = ".linenos, .gp, .go"
html_theme_options = {
    "repository_url": repository,
    "repository_branch": "main",
    "path_to_docs": ".",
    "use_repository_button": True,
    "use_download_button": False,
    "home_page_in_toc": False,
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_fullscreen_button": False,
    "navbar_persistent": [],  # the search box is in the sidebar
}
