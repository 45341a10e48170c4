"""Old expressions do not come back: `scripts/check_vocabulary.py` finds none here, and finds those that are planted."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "check_vocabulary.py"

spec = importlib.util.spec_from_file_location("check_vocabulary", SCRIPT)
vocabulary = importlib.util.module_from_spec(spec)
spec.loader.exec_module(vocabulary)


def found(text, lesson=False):
    return [(line, phrase) for line, phrase, _ in vocabulary.check_text(text, lesson)]


def test_the_repository_is_free_of_old_expressions():
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "" and done.returncode == 0, done.stdout or done.stderr


@pytest.mark.parametrize(
    "text, phrase",
    [
        ("16 rows a step", "rows a step"),
        ("much general knowledge kept", "general knowledge kept"),
        ("we walk back", "walk back"),
        ("samples dealt anew", "dealt anew"),
        ("of equals the first", "of equals"),
        ("Mended in 0.2", "Mended"),
        ("the likeliest token", "likeliest"),
        ("labels are dear", "dear"),
        ("made-up prompts", "made-up prompts"),
        ("run the same line again", "same line again"),
        ("held in plain numbers", "in plain numbers"),
        ("rows behind one another", "behind one another"),
        ("cannot be told apart", "told apart"),
        ("every row open", "every row open"),
        ("what a model was asked", "model was asked"),
        ("the optimiser", "optimiser"),
        ("length-normalised", "normalised"),
        ("from icft_lite.kept import Kept", "icft_lite.kept"),
        ("from icft_lite import finished", "from icft_lite import finished"),
        ("guard_four_bit()", "guard_four_bit"),
        ("entry.lot", "lot"),
        ('level="middle"', '"middle"'),
    ],
)
def test_planted_expressions_are_found(text, phrase):
    assert (2, phrase) in found(f"A first line.\n{text}\n")


@pytest.mark.parametrize(
    "text",
    [
        "a table row, a data point, the command line, in place, the floor of x, told, kept, copies",
        "amend, a remedy, endear, tender, slots, prowl by lottery",
        "from icft_lite.finished_runs import load_run",
        "from icft_lite.training.loop import train_icft",
        "from icft_lite import ICFTConfig, load_samples",
        "labelling functions label examples",
        'svg.text(anchor="middle")',
        'random.Random(f"lot/{seed}")',
    ],
)
def test_ordinary_words_are_not_hits(text):
    assert found(text) == []


def test_a_phrase_may_run_over_lines_and_comments():
    assert found("# written behind one\n#   another\n") == [(1, "behind one\n    another")]
    assert found("Run the same\nline again.") == [(1, "same\nline again")]


def test_marked_lines_may_keep_an_old_expression():
    assert found('seed = "likeliest"  # data: seeds the generator\n') == []


def test_lessons_are_checked_for_identifiers_and_a_few_phrases():
    text = "the likeliest token\nEntry.lot\nrows a step\n"
    assert found(text) == [(1, "likeliest"), (2, "lot"), (3, "rows a step")]
    assert found(text, lesson=True) == [(2, "lot"), (3, "rows a step")]


def test_the_command_prints_place_and_advice_and_fails(tmp_path, monkeypatch, capsys):
    (tmp_path / "docs").mkdir()
    path = tmp_path / "docs" / "page.md"
    path.write_text("Fine.\nOf equals, the first.\n", encoding="utf-8")
    (tmp_path / "CHANGELOG.md").write_text("of equals", encoding="utf-8")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "other.py").write_text("# of equals", encoding="utf-8")
    assert [file.name for file in vocabulary.find_files(tmp_path)] == ["CHANGELOG.md", "page.md"]
    assert vocabulary.check_file(tmp_path / "CHANGELOG.md", tmp_path) == []
    monkeypatch.setattr(vocabulary.check_file, "__defaults__", (tmp_path,))
    assert vocabulary.main([str(path)]) == 1
    assert capsys.readouterr().out == "docs/page.md:2: Of equals → ties are broken by\n"
    path.write_text("Fine.\n", encoding="utf-8")
    assert vocabulary.main([str(path)]) == 0
