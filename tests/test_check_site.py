"""The checker of the documentation site, on small sites with one mistake each."""

import sys

import pytest

import icft_lite

sys.path.append(f"{icft_lite.__path__[0]}/../scripts")
from check_site import check_site  # noqa: E402

RIGHT = """<html><head><link rel="stylesheet" href="_static/site.css">
<link rel="canonical" href="https://example.org/a"></head>
<body><h1 id="top">A</h1><a href="sub/b.html#here">b</a> <a href="#top">top</a> <a href="https://example.org">out</a>
<a href="mailto:a@example.org">mail</a><img src="figure.png" alt="A figure">
<svg aria-hidden="true"></svg></body></html>"""


def site(folder, page=RIGHT):
    (folder / "sub").mkdir()
    (folder / "_static").mkdir()
    for name in ("figure.png", "_static/site.css"):
        (folder / name).write_text("")
    (folder / "_static" / "template.html").write_text('<a href="{{ name }}">a template of the theme</a>')
    (folder / "sub" / "b.html").write_text('<p id="here"><a href="../a.html">a</a></p>')
    (folder / "a.html").write_text(page)
    return check_site(folder)


def test_a_right_site_has_no_problems(tmp_path):
    assert site(tmp_path) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("sub/b.html#here", "sub/c.html", "sub/c.html does not exist"),
        ("sub/b.html#here", "sub/b.html#there", "sub/b.html#there: the page has no anchor there"),
        ('"#top"', '"#bottom"', "#bottom: the page has no anchor bottom"),
        ("figure.png", "figures.png", "figures.png does not exist"),
        ('alt="A figure"', "", "image figure.png has no alternative text"),
        ('alt="A figure"', 'alt=" "', "image figure.png has no alternative text"),
        ('aria-hidden="true"', "", "an inline SVG has no aria-label"),
        ("_static/site.css", "https://cdn.example/a.css", "loads https://cdn.example/a.css from another server"),
        ("figure.png", "https://cdn.example/a.png", "loads https://cdn.example/a.png from another server"),
        ("<h1", '<script src="//cdn.example/a.js"></script><h1', "loads //cdn.example/a.js from another server"),
    ],
)
def test_mistakes_are_found(tmp_path, old, new, problem):
    assert old in RIGHT
    assert site(tmp_path, RIGHT.replace(old, new)) == [f"a.html: {problem}"]


def test_an_empty_folder_is_a_problem(tmp_path):
    assert check_site(tmp_path) == [f"{tmp_path} has no pages"]
