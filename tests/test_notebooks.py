"""The lessons as files: built from their sources, with stored outputs, in short cells.

`make test` also executes them, with nbval.
"""

import ast
import configparser
import contextlib
import importlib.util
import io
import re
import shlex
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import jupytext
import nbformat
import pytest

import icft_lite

ROOT = Path(icft_lite.__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
SOURCES = sorted((NOTEBOOKS / "src").glob("[0-9]*.py"))
MARK = "# NBVAL_CHECK_OUTPUT"

spec = importlib.util.spec_from_file_location("build_lessons", NOTEBOOKS / "build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)


def notebook(source):
    """Return the stored notebook of a source."""
    return nbformat.read(NOTEBOOKS / f"{source.stem}.ipynb", as_version=4)


def cells(book, kind):
    return [cell for cell in book.cells if cell.cell_type == kind]


def checked(book):
    """Return the code cells whose outputs nbval compares."""
    return [cell for cell in cells(book, "code") if MARK in cell.source.splitlines()]


lessons = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


# --- built one way, from the source


def test_every_notebook_has_a_source_and_every_source_a_notebook():
    assert SOURCES and [p.stem for p in SOURCES] == [p.stem for p in sorted(NOTEBOOKS.glob("*.ipynb"))]


@lessons
def test_source_and_notebook_agree(source):
    fresh, stored = build.read(source), notebook(source)
    assert fresh.metadata == stored.metadata, "run `make notebooks`"
    for a, b in zip(fresh.cells, stored.cells, strict=True):
        assert (a.id, a.cell_type, a.source) == (b.id, b.cell_type, b.source), "run `make notebooks`"


@lessons
def test_jupytext_reads_and_writes_the_source_unchanged(source):
    text = source.read_text(encoding="utf-8")
    assert (
        jupytext.writes(jupytext.reads(text, "py:percent"), "py:percent").split("# %%", 1)[1]
        == text.split("# %%", 1)[1]
    )


@lessons
def test_the_repository_address_comes_from_pyproject(source):
    assert build.REPOSITORY not in source.read_text(encoding="utf-8")
    first, setup = (cells(notebook(source), kind)[0].source for kind in ("markdown", "code"))
    path = build.REPOSITORY.removeprefix("https://github.com/")
    assert f"colab.research.google.com/github/{path}/blob/main/notebooks/{source.stem}.ipynb" in first
    assert f"git+{build.REPOSITORY}" in setup


def test_an_unknown_placeholder_is_an_error(tmp_path):
    text = SOURCES[0].read_text(encoding="utf-8").split("# %%")[0]
    path = tmp_path / "99_new.py"
    path.write_text(text + "# %% [markdown]\n# {{bagde}}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="99_new.py: the placeholder {{bagde}} is unknown; use one of .*{{badge}}"):
        build.read(path)


def test_text_is_updated_without_execution_and_code_is_not(tmp_path):
    source = SOURCES[0]
    text = source.read_text(encoding="utf-8")
    path = tmp_path / source.name
    path.write_text(text.replace("# %% [markdown]\n", "# %% [markdown]\n# A new line.\n#\n", 1), encoding="utf-8")
    fresh, stored = nbformat.read(build.build(path, to=tmp_path, text=True), as_version=4), notebook(source)
    assert fresh.cells[0].source.startswith("A new line.")
    assert [cell.get("outputs") for cell in fresh.cells] == [cell.get("outputs") for cell in stored.cells]
    path.write_text(f"{text}\n# %%\nprint(1)\n", encoding="utf-8")
    with pytest.raises(ValueError, match="code has changed, not only text; build without --text"):
        build.build(path, to=tmp_path, text=True)


def test_execution_stores_outputs_but_no_widgets(tmp_path):
    code = "import ipywidgets\nfor i in range(3):\n    print(i)\nipywidgets.Text()"
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)], metadata={"kernelspec": build.KERNEL})
    build.execute(book)
    (output,) = book.cells[0].outputs
    assert output.text == "0\n1\n2\n" and book.cells[0].execution_count == 1
    assert "widgets" not in book.metadata and book.metadata["language_info"] == {"name": "python"}


def test_lessons_are_built_in_parallel_and_none_starts_after_one_has_failed(tmp_path, monkeypatch, capsys):
    (tmp_path / "src").mkdir()
    for name in ("00_a", "01_b", "02_c", "03_d", "04_e", "05_f"):
        (tmp_path / "src" / f"{name}.py").touch()
    barrier, started = threading.Barrier(2, timeout=20), []

    def build_one(source, **_):
        started.append(source.stem)
        barrier.wait()  # until another build runs at the same time; otherwise BrokenBarrierError
        if source.stem in broken:
            raise RuntimeError(source.stem)
        time.sleep(len(broken))  # the next two are running when the failure is noticed
        return source

    broken = set()
    monkeypatch.setattr(build, "HERE", tmp_path)
    monkeypatch.setattr(build, "build", build_one)
    monkeypatch.setattr(sys, "argv", ["build.py", "--jobs", "2"])
    build.main()
    assert sorted(started) == sorted(Path(line).stem for line in capsys.readouterr().out.split())
    assert len(started) == 6
    started.clear()
    broken |= {"00_a", "01_b"}
    with pytest.raises(RuntimeError, match="0[01]_[ab]"):
        build.main()
    assert len(started) < 6


# --- style


@lessons
def test_cells_are_short(source):
    book = notebook(source)
    code = sorted(len(cell.source.splitlines()) for cell in cells(book, "code"))
    words = [len(cell.source.split()) for cell in cells(book, "markdown")]
    assert statistics.median(code) <= 10 and code[int(0.9 * len(code))] <= 30 and code[-1] <= 40
    assert statistics.median(words) <= 60


@lessons
def test_every_lesson_has_the_required_parts(source):
    text = " ".join("\n".join(cell.source for cell in cells(notebook(source), "markdown")).split())
    for phrase in (
        "You will be able to",
        "*our reading*",
        "not medical advice",
        "**predict",
        "predicted |",
        "What was shown",
        "Exercises",
        "Further reading",
    ):
        assert phrase.lower() in text.lower(), phrase


@lessons
def test_the_declared_memory_is_the_one_asserted(source):
    book = notebook(source)
    lesson = book.metadata["lesson"]
    last = cells(book, "code")[-1].source
    assert float(re.search(r"(?:peak < |print_peak\()([\d.]+)", last)[1]) == max(lesson["peak_gib"].values())
    assert set(lesson["minutes"]) == set(lesson["peak_gib"]) == {"cpu", "t4"}


@pytest.mark.parametrize("source", [p for p in SOURCES if "print_peak(" in p.read_text()], ids=lambda path: path.stem)
def test_the_measured_memory_is_printed_and_replaced_before_outputs_are_compared(source):
    (output,) = cells(notebook(source), "code")[-1].outputs
    measured, declared = map(float, re.findall(r"([\d.]+) GiB", output.text))
    assert 0.1 < measured < declared and output.text.endswith("within the declared memory: True\n")
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "tests" / "nbval_sanitize.cfg")
    text = re.sub(config["memory"]["regex"], config["memory"]["replace"], output.text)
    assert not re.search(r"\d", text) and "True" in text


# --- stored outputs


@lessons
def test_half_of_the_code_cells_are_checked_and_were_executed(source):
    book = notebook(source)
    assert len(checked(book)) >= len(cells(book, "code")) / 2
    for cell in checked(book):
        assert cell.execution_count and cell.outputs, f"never executed: {cell.source[:80]}"
    counts = [cell.execution_count for cell in cells(book, "code")]
    assert counts == list(range(1, len(counts) + 1)), "not executed from top to bottom"


@lessons
def test_outputs_have_no_warnings_errors_or_paths(source):
    book = notebook(source)
    assert "widgets" not in book.metadata
    machine = re.compile(r"/(home|Users|root|tmp|var|usr|mnt|opt)/|[A-Z]:\\\\|site-packages|file://")
    for cell in cells(book, "code"):
        for output in cell.outputs:
            data = {key: text for key, text in output.get("data", {}).items() if "image" not in key}
            shown = f"{output.get('text', '')} {data}"
            assert output.output_type != "error" and output.get("name") != "stderr", shown[:300]
            assert not (found := machine.search(shown)), shown[max(0, found.start() - 40) :][:200]
            assert "widget-view" not in shown and "Warning" not in shown, shown[:300]


def test_nbval_detects_a_corrupted_output(tmp_path):
    """Use the options of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    options = shlex.split(re.search(r"^NBVAL := (.*)$", makefile, re.M)[1])
    for name, stored in (("right", "2\n"), ("corrupted", "3\n")):
        cell = nbformat.v4.new_code_cell(f"{MARK}\nprint(1 + 1)", execution_count=1)
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=stored)]
        book = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": build.KERNEL})
        nbformat.write(book, tmp_path / f"{name}.ipynb")
    line = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", *options, str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1, done.stdout
    assert "1 failed, 1 passed" in done.stdout and "FAILED" in done.stdout.split("corrupted.ipynb")[-2]


# --- the set-up cell


def run_setup(monkeypatch, folder, present):
    """Run the set-up cell where only `present` is installed. Returns pip's arguments, None if not called."""
    calls = []
    monkeypatch.chdir(folder)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in present else None)
    monkeypatch.setattr(subprocess, "run", lambda line, check: calls.append(line))
    exec(cells(build.read(SOURCES[0]), "code")[0].source, {})
    return calls[0][1:] if calls else None


def test_setup_does_nothing_where_the_package_is_installed(monkeypatch, tmp_path):
    assert run_setup(monkeypatch, tmp_path, {"icft_lite", "torch"}) is None
    assert not list(tmp_path.iterdir())


def test_setup_installs_from_the_repository_and_pins_torch_and_numpy(monkeypatch, tmp_path):
    pip = run_setup(monkeypatch, tmp_path, {"torch", "numpy"})
    assert pip == ["-m", "pip", "install", "-q", "-c", "pins.txt", f"icft-lite @ git+{build.REPOSITORY}"]
    pins = (tmp_path / "pins.txt").read_text().splitlines()
    assert [line.split("==")[0] for line in pins] == ["torch", "numpy"] and all("==" in line for line in pins)


def test_setup_prefers_a_wheel_in_the_folder_of_the_notebook(monkeypatch, tmp_path):
    (tmp_path / "icft_lite-0.1.0-py3-none-any.whl").touch()
    assert run_setup(monkeypatch, tmp_path, set())[-1] == "icft_lite-0.1.0-py3-none-any.whl"


# --- exercises


def exercises(book):
    """Return (the check cell, the code of its solution) for each exercise."""
    found = []
    for at, cell in enumerate(book.cells):
        if cell.cell_type == "markdown" and "<summary>Solution</summary>" in cell.source:
            assert "<summary>Hint</summary>" in cell.source
            found.append((book.cells[at - 1].source, re.search(r"```python\n(.*?)```", cell.source, re.S)[1]))
    return found


def solve(stub, solution):
    """Return the exercise's cell with the solution in place of the stub of the same name."""
    name = ast.parse(solution).body[0].name
    node = next(n for n in ast.parse(stub).body if isinstance(n, ast.FunctionDef) and n.name == name)
    lines = stub.splitlines()
    return "\n".join([*lines[: node.lineno - 1], solution, *lines[node.end_lineno :]])


def said(code, namespace):
    """Return what the code prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, dict(namespace))
    return out.getvalue()


def check_exercise(book, number, wrong, namespace):
    """Check that exercise `number` accepts its own solution and none of `wrong[number]`; `wrong` covers them all."""
    found = exercises(book)
    assert len(found) == len(wrong)
    stub, solution = found[number]
    assert said(stub, namespace) == "Your turn.\n"
    assert said(solve(stub, solution), namespace).startswith("Right.")
    for other in wrong[number]:
        assert said(solve(stub, other), namespace).startswith("Not yet"), other


def defined(book, not_run):
    """Return all that a lesson's cells define, executed in order, except cells that contain a text in `not_run`."""
    namespace = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for cell in cells(book, "code"):
            if not any(mark in cell.source for mark in not_run):
                exec(cell.source, namespace)
    return namespace


def from_scratch(book, **namespace):
    """Return what a lesson builds by hand: `namespace` and all that its cells tagged `from-scratch` define."""
    for cell in cells(book, "code"):
        if "from-scratch" in cell.metadata.get("tags", ()):
            exec(cell.source, namespace)
    return namespace


@lessons
def test_exercises_have_titles_checks_and_solutions(source):
    book = notebook(source)
    text = "\n".join(cell.source for cell in cells(book, "markdown"))
    titles = re.findall(r"^### \d · .+ \((?:easy|medium|hard), \d+ minutes\)$", text, re.M)
    core = re.findall(r"^### Your turn: .+\n\n[●○]{3} difficulty · [●○]{3} importance · \d+ minutes$", text, re.M)
    assert 2 <= len(titles) <= 4 and len(exercises(book)) == len(titles) + len(core)
    for stub, _ in exercises(book):
        assert MARK in stub and "return ..." in stub and '"Right."' in stub
