"""The grader on honest work, what is refused, what the files of results contain, and exit codes."""

import csv
import hashlib
import html
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from grading_fixtures import RIGHT, RIGHT_CLASS, RIGHT_FUNCTION, SPECS, require_isolation, write_notebook

from icft_lite import cli
from icft_lite.errors import ICFTError
from icft_lite.grading import shim
from icft_lite.grading.batch import grade_all
from icft_lite.grading.cells import MAX_PARSED, first_line, names_used, wrong_calls
from icft_lite.grading.command import cleaned_up
from icft_lite.grading.grader import Grader, check_function
from icft_lite.grading.package_copy import copy_package, overlap
from icft_lite.grading.parts import Call, Part, close
from icft_lite.grading.results import PartResult, Result, feedback_path, quoted, read_csv, to_gradescope, to_lines
from icft_lite.grading.sandbox import Limits, check_unexposed, site_folders
from icft_lite.grading.specifications import load_assignments
from icft_lite.grading.submissions import find_submissions, read_submission

LIMITS = Limits(cell_seconds=20, total_seconds=60)
WRONG_SIGN = RIGHT_FUNCTION.replace("return float(total)", "return -float(total)")
STUB = "def calibration_error(probs, gold, bins):\n    raise NotImplementedError"
COMPARES = """
from icft_lite.metrics import expected_calibration_error

package = expected_calibration_error(np.array([[0.2, 0.8]]), np.array([1]))
"""
COPY = """
import math
import numpy as np

def ece(probabilities, gold, bins=10):
    known = np.asarray(gold) >= 0
    p, y = np.asarray(probabilities)[known], np.asarray(gold)[known]
    if not len(y):
        return math.nan
    top, right = p.max(1), p.argmax(1) == y  # renamed, with another comment
    place = np.minimum((top * bins).astype(int), bins - 1)
    gap = [abs(top[place == k].mean() - right[place == k].mean()) * (place == k).mean() for k in np.unique(place)]
    return float(sum(gap))

def calibration_error(probs, gold, bins):
    return ece(np.stack([1 - probs, probs], 1), gold, bins)
"""


@pytest.fixture(scope="module")
def grader():
    with Grader(SPECS, "full", LIMITS) as one:
        require_isolation(one)
        yield one


@pytest.fixture
def part():
    return load_assignments(SPECS)["F1"].parts[0]


# --- honest work, in the sandbox


def test_a_folder_of_submissions(grader, tmp_path, monkeypatch):
    """Right, reordered, untouched, wrong, copied and unreadable work, in one pass with the expected marks."""
    files = tmp_path / "data"
    files.mkdir()
    write_notebook(files / "work.ipynb", [*RIGHT, "answer = open('notes/text.txt').read()"])
    (files / "notes").mkdir()
    (files / "notes" / "text.txt").write_text("<b>from a file</b>")
    write_notebook(tmp_path / "right.ipynb", RIGHT)
    write_notebook(
        tmp_path / "reordered.ipynb", [STUB, RIGHT_CLASS, "1 / 0", RIGHT_FUNCTION, RIGHT_CLASS, "answer = ' '"]
    )
    write_notebook(tmp_path / "untouched.ipynb", [STUB])
    for name, function in (("sign", WRONG_SIGN), ("compares", RIGHT_FUNCTION)):
        write_notebook(tmp_path / f"{name}.ipynb", ["x = 1 / 0", function, *RIGHT[1:], COMPARES, "print(package)"])
    write_notebook(tmp_path / "copied.ipynb", [COPY])
    (tmp_path / "broken.ipynb").write_text("{")
    monkeypatch.chdir(tmp_path)
    results = {result.submission: result for result in grade_all(grader, find_submissions([Path()]))}
    marks = {name: [part.earned for part in result.parts] for name, result in results.items()}
    assert marks == {
        "broken.ipynb": [],
        "compares.ipynb": [3, 2, None],
        "copied.ipynb": [3, 0, 0],
        "data": [3, 2, None],
        "reordered.ipynb": [3, 2, 0],
        "right.ipynb": [3, 2, None],
        "sign.ipynb": [0, 2, None],
        "untouched.ipynb": [0, 0, 0],
    }
    assert results["data"].parts[2].answer == "<b>from a file</b>" and results["data"].to_be_marked == 5
    assert results["reordered.ipynb"].notes == ('code cell 3, "1 / 0": ZeroDivisionError: division by zero',)
    notes = results["sign.ipynb"].notes
    assert "not available" not in "".join(notes) and "name 'package'" in notes[1], "the student need not know"
    assert (
        results["compares.ipynb"].notes
        == notes[:1]
        == ('code cell 1, "x = 1 / 0": ZeroDivisionError: division by zero',)
    )
    assert results["sign.ipynb"].parts[0].feedback == "the sign is wrong"
    assert results["untouched.ipynb"].parts[0].feedback == "not implemented yet"
    assert results["untouched.ipynb"].parts[1].feedback == "the notebook defines no RunningMean"
    assert "icft_lite.metrics.expected_calibration_error" in results["copied.ipynb"].flags[0]
    assert "save it again in Jupyter" in results["broken.ipynb"].refused
    assert not any(result.flags for name, result in results.items() if name != "copied.ipynb")


@pytest.mark.slow
def test_tensors_in_the_sandbox(grader, tmp_path, part, monkeypatch):
    def draw(rng):
        return [Call((rng.normal(size=4).astype("float32"),), torch=True)]

    torch_part = replace(part, draw=draw, reference=lambda x: x.softmax(0), compare=lambda g, e, c: close(g, e))
    assignment = replace(grader.assignments["F1"], parts=(torch_part,))
    submission = read_submission("t", write_notebook(tmp_path / "t.ipynb", ["import torch\ncalibration_error = "
        "lambda x: torch.softmax(x, 0)"]))  # fmt: skip
    assert grader.grade(submission, assignment).score == 3


def test_resuming_and_the_csv(grader, tmp_path, monkeypatch):
    folder, table, feedback = tmp_path / "class", tmp_path / "marks.csv", tmp_path / "feedback"
    folder.mkdir()
    monkeypatch.chdir(folder)
    write_notebook(folder / "=1+1.ipynb", [RIGHT_FUNCTION, "answer = 'text'"])
    write_notebook(folder / "bob.ipynb", [STUB])

    def graded(**options):
        return grade_all(grader, find_submissions([Path()]), csv=table, **options)

    assert len(list(graded())) == 2
    assert list(graded()) == []  # all are in the file
    write_notebook(folder / "bob.ipynb", RIGHT)
    assert [result.submission for result in graded()] == ["bob.ipynb"]
    rows = {row["submission"]: row for row in csv.DictReader(table.open(encoding="utf-8"))}
    assert set(rows) == {"'=1+1.ipynb", "bob.ipynb"}
    row = rows["'=1+1.ipynb"]
    assert [row[name] for name in ("score", "max_score", "to_be_marked", "F1.1", "F1.2", "F1.3", "isolation")] == [
        "3", "5", "5", "3", "0", "to be marked", "full"]  # fmt: skip
    assert rows["bob.ipynb"]["score"] == "5"
    assert [result.submission for result in graded(feedback=feedback)] == ["=1+1.ipynb", "bob.ipynb"], "no feedback yet"
    (feedback / "bob.ipynb.txt").unlink()
    assert [result.submission for result in graded(feedback=feedback)] == ["bob.ipynb"]
    assert len(csv_rows(table)) == 2
    lines = (feedback / "=1+1.ipynb.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "=1+1.ipynb: F1 3 of 5 points, 5 to be marked"
    assert "the notebook defines no RunningMean" in lines[2]
    digest = hashlib.sha256(b"text").hexdigest()[:16]
    assert f"to be marked; fingerprint {digest}" in lines[3] and lines[-1] == "text", "the written answer is there"


def csv_rows(table):
    return list(csv.DictReader(table.open(encoding="utf-8")))


def test_notebooks_of_the_same_name_are_different_submissions(grader, tmp_path, monkeypatch):
    """As nbgrader lays them out; graded one student at a time."""
    monkeypatch.chdir(tmp_path)
    for student, function in (("alice", RIGHT_FUNCTION), ("bob", STUB)):
        (tmp_path / "submitted" / student / "F1").mkdir(parents=True)
        write_notebook(tmp_path / "submitted" / student / "F1" / "work.ipynb", [function])
        found = find_submissions([Path("submitted", student, "F1")])
        (result,) = grade_all(grader, found, csv=tmp_path / "marks.csv", feedback=tmp_path / "feedback")
    rows = {row["submission"]: row["score"] for row in csv_rows(tmp_path / "marks.csv")}
    assert rows == {"submitted/alice/F1/work.ipynb": "3", "submitted/bob/F1/work.ipynb": "0"}
    assert (tmp_path / "feedback" / "submitted" / "bob" / "F1" / "work.ipynb.txt").is_file()
    outside = feedback_path(Path("f"), "/srv/../class/a.ipynb")
    assert outside == Path("f", "srv", "class", "a.ipynb.txt"), "never outside the folder"


def test_magics_of_figures_and_wrong_functions_that_are_called(grader, tmp_path):
    uses = RIGHT_CLASS.replace("return (self.start", "return 0 * (calibration_error is None) - (self.start")
    cells = ["%matplotlib inline\nimport numpy as np\nx = 1", "assert x == 1", WRONG_SIGN, uses]
    result = grader.grade(read_submission("t", write_notebook(tmp_path / "t.ipynb", cells)), grader.assignments["F1"])
    assert result.notes == () and [part.earned for part in result.parts] == [0, 0, 0]
    assert result.parts[0].feedback == "the sign is wrong"
    assert result.parts[1].feedback.endswith("; it uses calibration_error (F1.1), wrong too")
    assert result.parts[2].feedback == "no answer: answer is not a text"
    assert (result.score, result.max_score, result.to_be_marked) == (0, 5, 0), "5 points whatever the rubric part has"


def test_names_that_a_function_uses():
    cells = [
        "%magic",
        "import a\ndef f(x):\n    return g(x)",
        "class C:\n    def m(self):\n        return f(1)",
        "def f(x):",
    ]
    too_long = "def f(x):\n    return [" + "h," * MAX_PARSED + "]"  # 3.6 GiB for the longest cell that is read
    used = names_used([*cells, too_long])
    assert used == {"f": {"g", "x"}, "C": {"f"}}
    assert wrong_calls("C", used, {"g": "P1", "C": "P3", "h": "P2"}) == ["g (P1)"], "through f, and not itself"
    assert first_line("# comment\n\n  x = 1") == '"x = 1"' and first_line("") == '""'


def test_what_only_several_calls_show(part):
    seeds = replace(
        part,
        draw=lambda rng: [Call((1,)), Call((1,)), Call((2,))],
        reference=lambda seed: seed,
        compare=lambda got, expected, call: "",
        compare_all=lambda answers, calls: "" if len({*map(str, answers)}) == 2 else "seed",
    )
    assert check_function(seeds, lambda seed: 10 * seed) == ""
    assert (
        check_function(seeds, lambda seed: 0)
        == "seed"
        == check_function(seeds, lambda seed, i=[0]: i.append(0) or len(i))
    )


def test_sigterm_ends_grading_in_order():
    with pytest.raises(SystemExit) as stop, cleaned_up():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert stop.value.code == 128 + signal.SIGTERM


def test_a_specification_that_fails_is_the_instructors_error(part):
    for broken in (replace(part, draw=lambda rng: 1 / 0), replace(part, draw=lambda rng: [])):
        with pytest.raises(ICFTError, match=r"part F1\.1: .*draw"):
            check_function(broken, lambda *a: 0.0)


# --- functions, without a sandbox


def test_check_function(part):
    names = {}
    exec(RIGHT_FUNCTION, names)
    right = names["calibration_error"]
    assert check_function(part, right) == ""
    assert check_function(part, lambda *a, **k: -right(*a, **k)) == "the sign is wrong"
    assert (
        check_function(part, lambda *a, **k: right(*a, **k) + 1e-3) == "the result has the right shape but wrong values"
    )
    assert check_function(part, lambda p: 0).startswith("raised TypeError")
    assert "set is returned" in check_function(part, lambda *a, **k: {1})


def test_inputs_are_new_each_time_and_cannot_be_changed(part):
    seen = []
    check_function(part, lambda p, g, bins: seen.append(p.copy()) or p.fill(0) or 0.0)
    check_function(part, lambda p, g, bins: seen.append(p.copy()) or 0.0)
    assert len(seen) == 2 and not np.array_equal(seen[0], seen[1])
    in_place = replace(part, draw=lambda rng: [Call((rng.uniform(1, 2, 5),))], reference=lambda x: float(x.sum()))

    def changes(x):
        total = float(x.sum())
        x[:] = 0
        return total

    assert check_function(in_place, changes) == ""


def test_tensors():
    import torch

    part = Part(
        "T", "", 1, "f", lambda rng: [Call((rng.normal(size=3), [1]), {"k": 2}, torch=True)], lambda x, y, k: x * k
    )
    assert check_function(part, lambda x, y, k: x * k if isinstance(x, torch.Tensor) and y == [1] else None) == ""
    assert check_function(part, lambda x, y, k: (x * k).bfloat16()) != ""
    assert shim.plain(torch.ones(2, dtype=torch.bfloat16, requires_grad=True)).dtype == np.float32


@pytest.mark.parametrize(
    ("got", "expected", "feedback"),
    [
        (1, 1.0, ""),
        (np.float32([1, 2]), np.array([1.0, 2.0]), ""),
        ((1, [2.0]), [1, (2.0,)], ""),
        ({"a": None, "b": "x"}, {"a": None, "b": "x"}, ""),
        (np.array(0.5), 0.5, ""),
        (np.array([np.nan, 1]), np.array([np.nan, 1]), ""),
        (True, 1.0, "the result has the dtype bool, but float is expected"),
        (1.5, 1, "the result has the dtype float64, but int is expected"),
        (np.zeros((2, 3)), np.zeros((3, 2)), "the result has the shape (2, 3), but (3, 2) is expected"),
        (
            np.array([1.0, 2, 4]),
            np.array([1.0, 2, 3]),
            "the result has the right shape but wrong values (1 of 3 are wrong)",
        ),
        (float("nan"), 1.0, "the result has NaN or infinite values"),
        (1.0, float("inf"), "the result is finite where it should not be"),
        ([1, 2], [1, 2, 3], "the result has 2 items, but 3 are expected"),
        ([1, [2, 5]], [1, [2, 3]], "the result[1][1] has the right shape but wrong values"),
        (None, 1.0, "the result is None, but a float is expected"),
        ("1", 1.0, "the result is a str, but a float is expected"),
        ({"a": 1}, {"b": 1}, "the result has the keys ['a'], but ['b'] are expected"),
        ("x", "y", "the result has a wrong value"),
        (1, [1], "the result is an int, but a list is expected"),
        (2**63, 1, "the result has the right shape but wrong values"),
    ],
)
def test_close(got, expected, feedback):
    assert close(got, expected) == feedback


def test_messages_are_plain_data():
    value = {
        "a": [1, -2.5, None, True, "ä\ud800"],
        3: (np.arange(6, dtype=np.int16).reshape(2, 3), np.float32(2).item()),
    }
    back = shim.unpack(shim.pack(value))
    assert back["a"] == value["a"] and type(back[3]) is tuple
    np.testing.assert_array_equal(back[3][0], value[3][0])
    assert back[3][0].dtype == np.int16 and back[3][0].flags.writeable
    with pytest.raises(TypeError, match="object"):
        shim.plain(np.array([object()]))


@pytest.mark.parametrize(
    "text",
    [
        '{"a": ["object", [1]]}',
        '{"a": ["float64", [3]]}',
        '{"a": ["float64", [-1]]}',
        '{"a": ["float64", [4294967296, 4294967296]]}',
        '{"a": ["float64", [true]]}',
        '{"a": ["|V8", [1]]}',
        '{"a": "float64"}',
        '{"a": ["int8", [1, 1, 1, 1, 1, 1, 1, 1, 1]]}',
        '{"d": [[{"d": []}, 1]]}',
        '{"x": 1, "y": 2}',
        "{}",
        "[" * 100_000,
        str(2**70),
        "nothing",
    ],
)
def test_damaged_messages_are_refused(text):
    data = len(text).to_bytes(4, "little") + text.encode() + bytes(16)
    with pytest.raises(ValueError):
        shim.unpack(data)


def test_cut_and_long_messages_are_refused():
    data = shim.pack([1, 2])
    for wrong in (b"", data[:3], data[:-1], (2**31).to_bytes(4, "little") + b"[]", data + bytes(shim.MAX_BYTES)):
        with pytest.raises(ValueError):
            shim.unpack(wrong)


# --- the copy of the package


def test_blocked_code_is_removed_from_the_copy(tmp_path):
    names = ["icft_lite.metrics.token_f1", "icft_lite.weak.label_models.DawidSkene", "icft_lite.statistics"]
    removed = copy_package(tmp_path, names)
    assert set(removed) == set(names) and "log_joint" in "".join(removed["icft_lite.weak.label_models.DawidSkene"])
    code = """
import icft_lite, icft_lite.metrics as m, icft_lite.statistics as s
from icft_lite.weak.label_models import DawidSkene, MajorityVote
MajorityVote()
assert m.key_fact_recall("the kidney", ["kidney"]) == 1
for blocked in (lambda: m.token_f1("a", "a"), lambda: DawidSkene(), lambda: s.holm([0.1])):
    try: blocked()
    except NotImplementedError as error: print(error)
print(icft_lite.__file__)
"""
    # -S: the package that is installed for development must not hide the copy
    paths = os.pathsep.join([str(tmp_path), *site_folders()])
    out = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert out.stdout.count("is not available while this part is graded") == 3 and str(tmp_path) in out.stdout, (
        out.stderr
    )
    words = set(re.findall(r"\w{5,}", removed["icft_lite.metrics.token_f1"][0]))
    only_there = words - set(re.findall(r"\w+", (tmp_path / "icft_lite" / "metrics.py").read_text()))
    (compiled,) = tmp_path.rglob("metrics*.pyc")
    assert only_there and only_there.isdisjoint(map(bytes.decode, re.findall(rb"[a-zA-Z_]{5,}", compiled.read_bytes())))


@pytest.mark.parametrize("name", ["icft_lite.metrics.nothing", "numpy.mean", "icft_lite.no.module"])
def test_unknown_blocked_names(tmp_path, name):
    with pytest.raises(ICFTError, match=name):
        copy_package(tmp_path, [name])


def test_overlap_sees_renamed_copies_only(tmp_path):
    sources = copy_package(tmp_path, ["icft_lite.metrics.expected_calibration_error"]).popitem()[1]
    assert overlap(COPY, sources) > 0.6
    assert overlap(RIGHT_FUNCTION, sources) < 0.3
    assert overlap("(" * 5000, sources) == 0


# --- submissions


def make_zip(path, **entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name.replace("__", "/"), content)
    return path


NOTEBOOK = json.dumps({"cells": []})


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"a.ipynb": NOTEBOOK, "../b.txt": "x"}, "not acceptable"),
        ({"a.ipynb": NOTEBOOK, "/b.txt": "x"}, "not acceptable"),
        ({"a.ipynb": NOTEBOOK, "c\\b.txt": "x"}, "not acceptable"),
        ({"a.ipynb": NOTEBOOK, "C:b.txt": "x"}, "not acceptable"),
        ({"a.ipynb": NOTEBOOK, "b\n.txt": "x"}, "not acceptable"),
        ({"a.ipynb": NOTEBOOK, "b.bin": bytes(60 * 2**20)}, "50 MiB"),
        ({"a.ipynb": NOTEBOOK, **{f"{i}.txt": "" for i in range(200)}}, "200 files"),
        ({"a.ipynb": NOTEBOOK, "b.ipynb": NOTEBOOK}, "2 notebooks"),
        ({"b.txt": "x"}, "0 notebooks"),
        ({"a.ipynb": bytes(6 * 2**20)}, "5 MiB"),
        ({"a.ipynb": "[" * 100_000}, "cannot be read"),
        ({"a.ipynb": '{"cells": [{"cell_type": "code", "source": 5}]}'}, "cannot be read"),
        ({"a.ipynb": json.dumps({"cells": [{"cell_type": "code", "source": ""}] * 1001})}, "1001 code cells"),
    ],
)
def test_refused_zip_files(tmp_path, entries, message):
    path = make_zip(tmp_path / "s.zip", **entries)
    with pytest.raises(ICFTError, match=message):
        read_submission("s", path)


def test_zip_files_that_are_read_and_damaged_ones(tmp_path):
    path = make_zip(tmp_path / "s.zip", **{"work/a.ipynb": NOTEBOOK, "work/data.csv": "x"})
    assert read_submission("s", path).files == {"work/data.csv": b"x"}
    with zipfile.ZipFile(tmp_path / "mac.zip", "w") as made:  # as the Finder of macOS writes it
        for name in ("a.ipynb", "__MACOSX/._a.ipynb", "._a.ipynb"):
            made.writestr(name, NOTEBOOK if name == "a.ipynb" else "metadata")
    assert read_submission("s", tmp_path / "mac.zip").cells == read_submission("s", path).cells
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ICFTError, match="zip file"):
        read_submission("s", path)
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("link.txt")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ICFTError, match="symbolic link"):
        read_submission("s", path)


def test_links_and_special_files_are_refused(tmp_path):
    secret = write_notebook(tmp_path / "secret.ipynb", ["1"])
    folder = tmp_path / "s"
    folder.mkdir()
    write_notebook(folder / "a.ipynb", ["1"])
    (folder / "link").symlink_to(secret)
    with pytest.raises(ICFTError, match="'link' is a symbolic link"):
        read_submission("s", folder)
    (folder / "link").unlink()
    os.mkfifo(folder / "pipe")
    start = time.monotonic()
    with pytest.raises(ICFTError, match="'pipe' is not a regular file"):
        read_submission("s", folder)
    assert time.monotonic() - start < 1
    alone = tmp_path / "linked.ipynb"
    alone.symlink_to(secret)
    with pytest.raises(ICFTError, match="symbolic link"):
        read_submission(*find_submissions([alone])[0])
    with pytest.raises(ICFTError, match="there is no notebook"):
        find_submissions([tmp_path / "absent"])


# --- results


def test_cells_of_the_csv_are_never_formulas(tmp_path):
    for cell in ("=1", "+1", "-1", "@x", "\t=1", " =1"):
        assert quoted(cell) == f"'{cell}"
    assert quoted("a=1") == "a=1" and quoted("") == ""
    (tmp_path / "other.csv").write_text("name,mark\nx,1\n")
    with pytest.raises(ICFTError, match="not written by this command"):
        read_csv(tmp_path / "other.csv")


def test_text_of_students_is_escaped():
    parts = (PartResult("F1.1", "<T>", 3, 0.0, "raised X: <script>"), PartResult("F1.3", "", 5, None, "", "<img>\nx"))
    found = to_gradescope(Result("s", parts=parts, notes=("cell 1: <b>",), flags=("copied",)))
    assert "<script>" not in json.dumps(found) and "<img>" not in json.dumps(found) and "<b>" not in json.dumps(found)
    assert html.unescape(found["tests"][1]["output"]) == "<pre><img>\nx</pre>"
    assert found["score"] == 0 and [test["max_score"] for test in found["tests"]] == [3, 5]
    assert found["extra_data"]["flags"] == ["copied"] and "copied" not in json.dumps(found["tests"])
    assert to_lines(Result("s", refused="why"), True) == ["s: not graded: why"]


# --- the command


def test_exit_codes_and_unprotected_results(tmp_path, capsys):
    right = str(write_notebook(tmp_path / "right.ipynb", RIGHT))
    options = ["--assignments", str(SPECS), "--unsafe"]
    assert cli.main(["grade", right, *options, "--gradescope", str(tmp_path / "results.json")]) == 0
    out = capsys.readouterr().out
    assert "5 of 5 points, 5 to be marked, unprotected" in out and "F1.1 Calibration error: 3 of 3: right" in out
    assert json.loads((tmp_path / "results.json").read_text())["score"] == 5
    (tmp_path / "broken.ipynb").write_text("{")
    assert cli.main(["grade", str(tmp_path / "broken.ipynb"), *options, "--json"]) == 3
    (result,) = json.loads(capsys.readouterr().out)
    assert result["isolation"] == "unprotected" and "cannot be read" in result["refused"]
    assert cli.main(["grade", right, *options, "--assignment", "A9"]) == 2
    assert "'A9' is unknown; choose one of F1" in capsys.readouterr().err
    assert cli.main(["grade", right, "--assignments", str(tmp_path)]) == 2
    assert "--assignments" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="the filter that takes the namespaces away is of Linux")
def test_grading_is_refused_where_isolation_is_missing(tmp_path):
    notebook = write_notebook(tmp_path / "right.ipynb", ["open('executed', 'w')", *RIGHT])
    code = (
        "import sys; from icft_lite.grading.isolate import filter_calls; filter_calls(); "
        "from icft_lite.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "grade", notebook, "--assignments", SPECS]
    done = subprocess.run(command, capture_output=True, text=True, cwd=SPECS.parents[2])
    assert done.returncode == 2 and done.stdout == ""
    assert "cannot be isolated" in done.stderr and "mount namespace: Operation not permitted" in done.stderr
    assert "PID namespace" in done.stderr and "network namespace" in done.stderr and "--unsafe" in done.stderr


def test_exposed_folders_are_refused(tmp_path):
    check_unexposed("full", [tmp_path])
    with pytest.raises(ICFTError, match="student code can read"):
        check_unexposed("full", [tmp_path, *map(type(tmp_path), site_folders())])
