"""Symbols of formulas: the glossary lists each one once, with one meaning."""

import re
import unicodedata
from pathlib import Path

import pytest

import icft_lite

ROOT = Path(icft_lite.__file__).parents[1]
LETTERS = [chr(code) for code in range(0x391, 0x3CA) if unicodedata.category(chr(code)) in ("Lu", "Ll")]
COMMANDS = {unicodedata.name(one).split()[-1].lower(): one for one in LETTERS if one.islower()}
COMMANDS |= {name.capitalize(): one.upper() for name, one in COMMANDS.items()} | {"lambda": "λ", "varphi": "φ"}
"""LaTeX command → Greek letter."""


@pytest.fixture(scope="module")
def names():
    """The symbols in the first column of the glossary's table, one by one."""
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    table = text[text.index("## Symbols") : text.index("## A\n")]
    rows = re.findall(r"^\| (.+?) \| .+ \| .+ \|$", table, re.M)[1:]
    return [name.split("=")[0].strip() for row in rows for name in re.split(r"[,;] ", row)]


def greek(text):
    """Return the Greek letters of a text, written as such or as LaTeX commands."""
    return {COMMANDS[name] for name in re.findall(r"\\([A-Za-z]+)", text) if name in COMMANDS} | (
        set(text) & set(LETTERS)
    )


def test_no_symbol_has_two_meanings(names):
    assert len(names) > 60 and {name for name in names if names.count(name) > 1} == set()


def test_greek_letters_are_found_in_both_forms():
    assert greek(r"$\alpha\,\Delta W + \bar\varphi$, σ(z) and \text{beta}") == set("αΔφσ")


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks" / "src").glob("[0-9]*.py")), ids=lambda path: path.stem)
def test_greek_letters_of_a_lesson_are_in_the_table(path, names):
    text = "\n".join(re.findall(r"^# (.*)$", path.read_text(encoding="utf-8"), re.M))
    assert greek(text) <= greek(" ".join(names)) | {"Σ"}, path.name  # Σ: a sum
