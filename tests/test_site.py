"""The hooks of the documentation site (docs/_ext): on small notebooks and pages, and one small site that is built."""

import base64
import json
import re
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

import icft_lite
from icft_lite.reporting.style import png

pytest.importorskip("sphinx", reason="needs pip install -c constraints.txt -e '.[docs]'")
pytest.importorskip("myst_nb")
ROOT = Path(icft_lite.__file__).parents[1]
sys.path.append(str(ROOT / "docs" / "_ext"))

import api_pages  # noqa: E402
import glossary_links  # noqa: E402
import lesson_pages  # noqa: E402
from docutils import nodes  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402

GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")


# --- lessons


def cell(kind, source, **more):
    return {"cell_type": kind, "metadata": {}, "source": source, **more}


def image_cell(source, image=b"", **metadata):
    data = {"image/png": base64.b64encode(image).decode(), "text/plain": "<Image>"}
    output = {"output_type": "execute_result", "data": data, "metadata": {"image/png": metadata}, "execution_count": 1}
    return cell("code", source, outputs=[output], execution_count=1)


def alts(*cells):
    notebook = {"cells": [cell("markdown", "# A lesson\n\n## Two memories\n"), *cells]}
    lesson_pages.prepare(notebook, "99_new")
    return [one["metadata"]["mystnb"]["image"]["alt"] for one in notebook["cells"][1:]]


def titled(*titles):
    figure = Figure()
    for axis, title in zip(figure.subplots(1, len(titles), squeeze=False)[0], titles):
        axis.set_title(title, loc="left")
    return png(figure)


def test_an_image_has_its_own_text_or_the_titles_of_its_figure_or_its_section():
    code = 'axis.set_title("In the code", loc="left")\nother.set(title="Right panel")\nshow()'
    assert alts(image_cell(code, titled("In the file"), alt="Its own")) == ["Its own"]
    assert alts(image_cell(code, titled("In the file", "α = 1"))) == ["Figure: In the file; α = 1"]
    assert alts(image_cell(code, titled(""))) == ["Figure: In the code; Right panel"]
    assert alts(image_cell("show()", titled(""))) == ["Figure: Two memories"]
    assert alts(image_cell("%matplotlib inline\nx =", titled(""))) == ["Figure: Two memories"]


def test_a_text_in_the_metadata_of_a_cell_stays():
    one = image_cell("show()", titled("In the file"))
    one["metadata"]["mystnb"] = {"image": {"alt": "By hand"}}
    assert alts(one) == ["By hand"]


def test_the_badge_becomes_two_links_below_the_title():
    badge = "[![Open in Colab](https://x.org/badge.svg)](https://x.org/nb)\n\n"
    text = lesson_pages.with_buttons(f"{badge}# 99 · New\n\nText.", "99_new")
    title, _, buttons = text.splitlines()[:3]
    assert title == "# 99 · New" and "badge.svg" not in text and text.endswith("Text.")
    assert "[Open in Colab](https://x.org/nb)" in buttons and "<99_new.ipynb>" in buttons


def test_every_lesson_has_its_buttons_and_no_mark_of_the_tests():
    lessons = sorted((ROOT / "notebooks").glob("*.ipynb"))
    for path in lessons:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        lesson_pages.prepare(notebook, path.stem)
        assert ".lesson-button" in notebook["cells"][0]["source"], path.name
        assert not any("NBVAL" in one["source"] for one in notebook["cells"] if one["cell_type"] == "code")
    assert len(lessons) >= 12


# --- glossary


def paragraph(*children):
    document = nodes.document(None, None)
    document += nodes.paragraph("", "", *children)
    return document


def links(document, markdown=GLOSSARY):
    glossary_links.link_first_uses(document, glossary_links.read_terms(markdown), "g.html")
    return {link.astext(): link["refuri"] for link in document.findall(nodes.reference) if "refuri" in link}


def test_all_entries_of_the_glossary_are_read():
    terms = glossary_links.read_terms(GLOSSARY)
    assert len(terms) == GLOSSARY.count("\n- **") and len({term.anchor for term in terms}) == len(terms)
    by_anchor = {term.anchor: term for term in terms}
    assert by_anchor["term-backward-transfer"].phrases == ("backward transfer", "BWT")
    assert by_anchor["term-kl-divergence"].phrases == ("KL divergence", "KL")
    assert by_anchor["term-fp32-fp16-bf16"].phrases == ("fp32", "fp16", "bf16")
    assert by_anchor["term-rank-lora"].phrases == ()
    assert by_anchor["term-activation"].definition.endswith("number of tokens in a batch.")


def test_ordinary_words_are_terms():
    phrases = {phrase for term in glossary_links.read_terms(GLOSSARY) for phrase in term.phrases}
    assert phrases >= glossary_links.ORDINARY


def test_the_first_use_is_linked_and_the_longest_term_wins():
    text = nodes.Text("Reservoir  sampling and adapters; an adapter, BWT, and no lfs.")
    assert links(paragraph(text)) == {
        "Reservoir  sampling": "g.html#term-reservoir-sampling",
        "adapters": "g.html#term-adapter",
        "BWT": "g.html#term-backward-transfer",
    }


def test_text_around_a_link_is_unchanged():
    document = paragraph(nodes.Text("Two adapters, one token."))
    links(document)
    assert document.astext() == "Two adapters, one token."


def test_an_ordinary_word_is_linked_where_it_is_emphasized():
    assert links(paragraph(nodes.Text("a clear rule"))) == {}
    assert links(paragraph(nodes.emphasis("", "rule"))) == {"rule": "g.html#term-rule"}


@pytest.mark.parametrize("closed", [nodes.title, nodes.literal, nodes.reference, nodes.math, nodes.raw])
def test_titles_code_links_and_formulas_have_no_links(closed):
    assert links(paragraph(closed("", "adapter"))) == {}


# --- API


def test_the_api_pages_follow_the_design_and_have_every_module():
    rows = api_pages.packages((ROOT / "docs" / "design.md").read_text(encoding="utf-8"))
    names = [name for names, _ in rows for name in names]
    assert names.index("data") < names.index("weak") < names.index("memory") < names.index("training")
    package = ROOT / "icft_lite"
    there = {path.stem for path in (*package.glob("*.py"), *(file.parent for file in package.glob("*/__init__.py")))}
    assert set(names) == there - {"__init__", "tiny"}, "the table in docs/design.md lists all modules"


def test_modules_come_in_the_order_of_the_docstring_of_their_package():
    found = [path.stem for path in api_pages.modules("memory")]
    assert found[:3] == ["__init__", "short_term", "long_term"] and len(set(found)) == len(found)


# --- a site

MODULE = '''def double(x: int) -> int:
    """Return `2*x`.

    | x |
    |---|
    | *2* |
    """
'''


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A site of four pages with the hooks that change pages."""
    folder = tmp_path_factory.mktemp("site")
    for name, text in {
        "docs/index.md": "# Start\n\n[file](../code.py) [page](other.md#part-two) [absent](../absent.md)\n\n"
        "```{toctree}\nother\nglossary\n/notebooks/99_new\n```\n",
        "docs/other.md": "# Other\n\nAn adapter.\n\n## Part two\n\n```{eval-rst}\n.. automodule:: documented_module\n"
        "   :members:\n```\n",
        "docs/glossary.md": "# Glossary\n\n- **adapter**: A small set of weights.\n",
        "code.py": "",
        "absent.md": "",
        "documented_module.py": MODULE,
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    first = "# 99 · New\n\n[guide](https://example.org/x/blob/main/docs/other.md#part-two) $x^2$"
    notebook = {"cells": [cell("markdown", first), image_cell("show()", titled("One title"))],
                "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"},
                             "language_info": {"name": "python", "pygments_lexer": "ipython3"}},
                "nbformat": 4, "nbformat_minor": 4}  # fmt: skip
    (folder / "notebooks").mkdir()
    (folder / "notebooks" / "99_new.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    sys.path.append(str(folder))
    settings = {
        "extensions": ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "glossary_links", "lesson_pages",
                       "local_mathjax", "markdown_docstrings", "repository_links", "start_page"],
        "root_doc": "docs/index", "include_patterns": ["docs/*.md", "notebooks/*.ipynb"],
        "repository": "https://example.org/x", "html_theme_options": {"repository_branch": "main"},
        "html_theme": "sphinx_book_theme", "templates_path": [str(ROOT / "docs" / "_templates")],
        "myst_enable_extensions": ["dollarmath"], "myst_heading_anchors": 2, "nb_execution_mode": "off",
    }  # fmt: skip
    out = folder / "out"
    Sphinx(folder, None, out, folder / "doctrees", "html", settings, status=None, warningiserror=True,
           exception_on_warning=True).build()  # fmt: skip
    sys.path.remove(str(folder))
    return out


def page(built, name):
    return (built / name).read_text(encoding="utf-8")


def test_links_to_files_lead_to_the_repository_and_to_pages_within_the_site(built):
    start = page(built, "docs/index.html")
    assert 'href="https://example.org/x/blob/main/code.py"' in start
    assert 'href="https://example.org/x/blob/main/absent.md"' in start
    assert 'href="other.html#part-two"' in start
    assert 'href="../docs/other.html#part-two"' in page(built, "notebooks/99_new.html")


def test_terms_lead_to_anchors_that_exist(built):
    assert 'href="glossary.html#term-adapter"' in page(built, "docs/other.html")
    assert 'id="term-adapter"' in page(built, "docs/glossary.html")


def test_docstrings_are_markdown(built):
    text = page(built, "docs/other.html")
    assert re.search(r"<code[^>]*><span class=\"pre\">2\*x</span></code>", text) and "<em>2</em>" in text


def test_images_have_texts_and_formulas_use_the_mathjax_of_the_site(built):
    text = page(built, "notebooks/99_new.html")
    assert 'alt="Figure: One title"' in text
    assert re.search(r'src="\.\./_static/mathjax/tex-chtml-full\.js', text)
    assert (built / "_static" / "mathjax" / "tex-chtml-full.js").exists()


def test_the_address_of_the_site_leads_to_the_start_page(built):
    assert "url=docs/index.html" in page(built, "index.html")
