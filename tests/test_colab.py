"""Google Colab: the set-up cell adds what is missing there and changes nothing (table: colab_packages.toml)."""

import datetime
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from test_notebooks import build, lessons, notebook

import icft_lite

ROOT = Path(icft_lite.__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]

spec = importlib.util.spec_from_file_location("colab_script", ROOT / "scripts" / "colab.py")
colab = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = colab  # dataclasses look their module up
spec.loader.exec_module(colab)

TABLE = colab.read_table()


def names(requirements):
    return {canonicalize_name(Requirement(text).name) for text in requirements}


# --- the table


def test_the_table_is_dated_and_complete():
    assert datetime.date.fromisoformat(TABLE.date) <= datetime.date.today()
    assert all(str(Version(version)) == version for version in TABLE.packages.values())
    assert not TABLE.absent & TABLE.packages.keys()
    assert names(PROJECT["dependencies"]) <= TABLE.packages.keys() | TABLE.absent
    assert TABLE.absent - {"jedi"} <= names(
        [*PROJECT["dependencies"], *(r for extra in EXTRAS.values() for r in extra)]
    )


def test_the_table_describes_the_colab_of_the_documentation():
    """A newer table is welcome. It must then be read again whether the reasons for these floors still hold."""
    known = {"torch": "2.11", "transformers": "5.15", "peft": "0.20", "datasets": "4.0", "numpy": "2.1"}
    for name, version in known.items():
        assert Version(TABLE.packages[name]) >= Version(version), name
    assert {"bitsandbytes", "trl", "nbval"} <= TABLE.absent


# --- what pip does there


def test_the_set_up_cell_changes_no_package_of_colab_and_adds_what_is_missing():
    assert SpecifierSet(PROJECT["requires-python"]).contains(TABLE.python)
    plan = colab.plan_installation(PROJECT["dependencies"], TABLE)
    assert plan.conflicts == (), "lower the floor in pyproject.toml: pip would replace a package of Colab"
    assert names(PROJECT["dependencies"]) & TABLE.absent <= plan.added
    assert not plan.added & TABLE.packages.keys()


@pytest.mark.parametrize("name", sorted(names(PROJECT["dependencies"]) & TABLE.packages.keys()))
def test_a_floor_above_colabs_version_is_found(name):
    version = TABLE.packages[name]
    public = Version(version).public  # of torch, whose version on Colab ends with +cu128
    for requirement in (f"{name}>{public}", f"{name}<{public}", f"{name}!={public}"):
        (conflict,) = colab.plan_installation([requirement], TABLE).conflicts
        assert name in conflict.lower() and conflict.endswith(f"Colab has {version}")
    assert colab.plan_installation([f"{name}>={public}"], TABLE) == colab.Plan(frozenset(), ())


def test_markers_are_those_of_colab():
    lines = ["numpy>=99; python_version < '3.13'", "numpy>=99; sys_platform == 'win32'", "numpy>=99; extra == 'lab'"]
    assert colab.plan_installation(lines, TABLE) == colab.Plan(frozenset(), ())
    (conflict,) = colab.plan_installation(["numpy>=99; python_version >= '3.13'"], TABLE).conflicts
    assert conflict == f"icft-lite requires numpy>=99, Colab has {TABLE.packages['numpy']}"


def test_requirements_of_added_packages_count_too():
    """Their versions here stand for those that pip would choose."""
    old = replace(TABLE, packages={**TABLE.packages, "torch": "1.0"})
    conflicts = colab.plan_installation(["bitsandbytes"], old).conflicts
    assert len(conflicts) == 1 and conflicts[0].startswith("bitsandbytes requires torch")
    without = colab.plan_installation(["jsonargparse"], TABLE).added
    assert colab.plan_installation(["jsonargparse[signatures]"], TABLE).added - without == {"typeshed-client"}


def test_every_lesson_and_assignment_has_the_set_up_cell():
    """tests/test_notebooks.py compares the notebooks with these sources."""
    sources = [*(ROOT / "notebooks" / "src").glob("[0-9]*.py"), *(ROOT / "notebooks/assignments/src").glob("a*.py")]
    assert len(sources) >= 18
    assert [path.stem for path in sources if "# {{setup}}" not in path.read_text(encoding="utf-8").splitlines()] == []


def test_the_set_up_cell_pins_colabs_torch_and_numpy_and_asks_for_no_extra(monkeypatch, tmp_path):
    calls = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in TABLE.packages else None)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: TABLE.packages[name])
    monkeypatch.setattr(subprocess, "run", lambda line, check: calls.append(line))
    exec((ROOT / "notebooks" / "setup_cell.py").read_text(encoding="utf-8"), {})
    (line,) = calls
    assert not {"-U", "--upgrade", "--force-reinstall", "-I", "--ignore-installed"} & set(line)
    assert Requirement(line[-1].replace("{{repository}}", PROJECT["urls"]["Repository"])).extras == set()
    pins = (tmp_path / "pins.txt").read_text(encoding="utf-8").splitlines()
    assert pins == [f"{name}=={TABLE.packages[name]}" for name in ("torch", "numpy")]
    assert colab.plan_installation([*PROJECT["dependencies"], *pins], TABLE).conflicts == ()


def test_a_newer_list_is_compared_with_the_table(tmp_path, capsys):
    path = tmp_path / "pip-freeze.txt"
    lines = [f"{name}=={version}" for name, version in {**TABLE.packages, "tqdm": "99.0"}.items()]
    path.write_text("\n".join(["# a comment", "pkg @ https://example.org/pkg.whl", *lines]), encoding="utf-8")
    colab.compare_list(path)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"tqdm: {TABLE.packages['tqdm']} on {TABLE.date}, now 99.0" and len(printed) == 2
    path.write_text("\n".join(lines).replace("tqdm==99.0", "tqdm==1.0"), encoding="utf-8")
    with pytest.raises(SystemExit, match="icft-lite requires tqdm>=.*, Colab has 1.0"):
        colab.compare_list(path)


# --- what a lesson says at its top

T4_GIB = 14.5
"""Memory of Colab's T4 that a process can use."""


@lessons
def test_the_first_cell_has_the_badge_and_the_minutes_and_memory_for_each_device(source):
    book = notebook(source)
    lesson, first = book.metadata["lesson"], book.cells[0]
    everything = "\n".join(cell.source for cell in book.cells)
    badge = build.placeholders(source.stem, lesson)["{{badge}}"]
    assert first.cell_type == "markdown" and first.source.startswith(badge) and everything.count("colab-badge") == 1
    (table,) = re.findall(r"(?:^\|.*\|\n)*^\| minutes, at most \|.*\n^\|.*", everything, re.M)
    assert table == build.budget_table(lesson)
    for device in build.DEVICES:
        assert lesson["minutes"][device] > 0 and lesson["peak_gib"][device] > 0
    assert lesson["peak_gib"]["t4"] < T4_GIB


# --- `make test-colab`


def test_a_changed_or_removed_package_fails_the_check(capsys):
    before = {"numpy": "2.1.3", "torch": "2.11.0"}
    colab.compare(before, {**before, "gguf": "0.19.0"})
    assert "unchanged: all 2 packages" in capsys.readouterr().out
    for after in ({"numpy": "2.4.0", "torch": "2.11.0"}, {"torch": "2.11.0"}):
        with pytest.raises(SystemExit, match="changes numpy 2.1.3 →"):
            colab.compare(before, after)


def test_an_environment_with_a_package_that_colab_lacks_is_refused(capsys):
    with pytest.raises(SystemExit, match="icft-lite, jedi: not on Colab"):
        colab.print_differences(TABLE, {**TABLE.packages, "jedi": "1.0", "icft-lite": "0.1", "nbval": "0.11.0"})
    colab.print_differences(TABLE, {**TABLE.packages, "torch": "9.9", "nbval": "0.11.0"})
    assert f"torch 9.9 for {TABLE.packages['torch']}" in capsys.readouterr().out


@pytest.mark.slow
def test_pip_itself_would_change_no_package_of_colab(tmp_path):
    """Pip resolves icft-lite where it finds empty packages with Colab's names and versions. Needs the network.

    It answers for this Python and for the dependencies of the packages that are added, not for those of Colab's.
    """
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    (site,) = (environment / "lib").glob("python*/site-packages")
    for name, version in TABLE.packages.items():
        folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
        (folder / "INSTALLER").write_text("pip\n", encoding="utf-8")
    pins = tmp_path / "pins.txt"
    pins.write_text("".join(f"{name}=={TABLE.packages[name]}\n" for name in ("torch", "numpy")), encoding="utf-8")

    def added(*requirements):
        report = tmp_path / "report.json"
        command = [python, "-m", "pip", "install", "-q", "--dry-run", "--report", report, "-c", pins, *requirements]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found = json.loads(report.read_text(encoding="utf-8"))["install"]
        return {canonicalize_name(entry["metadata"]["name"]) for entry in found}

    assert added(*PROJECT["dependencies"]) == colab.plan_installation(PROJECT["dependencies"], TABLE).added
    newer = f"tqdm>{TABLE.packages['tqdm']}"
    assert "tqdm" in added(newer), "the test can fail"


def test_the_lessons_of_the_check_exist_and_its_options_are_those_of_the_makefile():
    for lesson in colab.LESSONS:
        assert (ROOT / "notebooks" / f"{lesson}.ipynb").is_file()
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    assert colab.nbval_options() == re.search(r"^NBVAL := (.*)$", makefile, re.M)[1].split()
