"""Check that lessons run with the packages of Google Colab, and that the set-up cell changes none of them.

    python scripts/colab.py create .venv-colab    # an environment with the versions of tests/colab_packages.toml
    python scripts/colab.py check .venv-colab     # run the set-up cell and lessons 00 and 04 in it
    python scripts/colab.py list pip-freeze.txt   # compare the table with the list that Colab publishes today

`make test-colab` does the first two. Torch is the version of constraints.txt, so that a build for CPUs can be used.
Python is the one that runs `create`. Everything else has Colab's version, except what this torch refuses. `check`
prints the differences.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "tests" / "colab_packages.toml"
LESSONS = ("00_start_here", "04_qlora_from_scratch")
TOOLS = ("nbval",)
"""Packages that run the notebooks and are not on Colab."""


@dataclass(frozen=True)
class Table:
    """Packages of Google Colab on one day. Names are normalized: lower case, with hyphens."""

    date: str
    python: str
    packages: Mapping[str, str]
    """Name → version."""
    absent: frozenset[str]
    """Packages that Colab does not have."""

    def environment(self) -> dict[str, str]:
        """Return the values of the environment markers on Colab."""
        return {
            "implementation_name": "cpython",
            "os_name": "posix",
            "platform_machine": "x86_64",
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "python_full_version": self.python,
            "python_version": self.python.rpartition(".")[0],
            "sys_platform": "linux",
        }


@dataclass(frozen=True)
class Plan:
    """What an installation on Colab does."""

    added: frozenset[str]
    conflicts: tuple[str, ...]
    """Requirements that exclude the version on Colab: pip would replace it, or fail."""


def read_table(path: Path = TABLE) -> Table:
    """Return the table of Colab's packages."""
    found = tomllib.loads(path.read_text(encoding="utf-8"))
    packages = {canonicalize_name(name): version for name, version in found["packages"].items()}
    return Table(str(found["date"]), found["python"], packages, frozenset(map(canonicalize_name, found["absent"])))


def plan_installation(requirements: Iterable[str], table: Table) -> Plan:
    """Return what pip adds on Colab for these requirements, and which of them Colab's versions do not satisfy.

    The requirements of a package that Colab lacks are those of the version that is installed here. Raises
    importlib.metadata.PackageNotFoundError if it is not installed.
    """
    added: set[str] = set()
    conflicts = []
    queue = deque((Requirement(text), "icft-lite") for text in requirements)
    while queue:
        requirement, parent = queue.popleft()
        name = canonicalize_name(requirement.name)
        if not _applies(requirement, set(), table):
            continue
        version = table.packages.get(name)
        if version is None:
            key = f"{name}[{','.join(sorted(requirement.extras))}]"
            if key in added:
                continue
            added.add(key)
        elif not requirement.specifier.contains(version, prereleases=True):
            conflicts.append(f"{parent} requires {requirement.name}{requirement.specifier}, Colab has {version}")
        if version is None or requirement.extras:
            for text in metadata.requires(name) or ():
                child = Requirement(text)
                basic = _applies(child, set(), table)
                # What a package on Colab requires without extras is installed there.
                if (basic and version is None) or (not basic and _applies(child, requirement.extras, table)):
                    child.marker = None
                    queue.append((child, name))
    return Plan(frozenset(key.partition("[")[0] for key in added), tuple(conflicts))


def compare_list(path: Path) -> None:
    """Print what differs in a newer list of Colab (lines `name==version`), and check that nothing there would change.

    Raises SystemExit if pip would replace a package.
    """
    table = read_table()
    lines = [line.partition("==") for line in path.read_text(encoding="utf-8").splitlines() if "==" in line]
    packages = {canonicalize_name(name): version.strip() for name, _, version in lines}
    for name, version in table.packages.items():
        if packages.get(name) != version:
            print(f"{name}: {version} on {table.date}, now {packages.get(name, 'absent')}")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    plan = plan_installation(project["dependencies"], replace(table, packages=packages))
    if plan.conflicts:
        sys.exit("; ".join(plan.conflicts))
    print(f"the set-up cell changes nothing and adds {', '.join(sorted(plan.added))}")


def _applies(requirement: Requirement, extras: set[str], table: Table) -> bool:
    """Return whether a requirement applies on Colab when these extras are wanted."""
    marker, values = requirement.marker, table.environment()
    return marker is None or any(marker.evaluate(values | {"extra": extra}) for extra in extras or {""})


# --- the environment


def run(*command: str | Path, **options: Any) -> None:
    """Print a command and run it. Raises subprocess.CalledProcessError if it fails."""
    print("$", *command, flush=True)
    subprocess.run([str(part) for part in command], check=True, **options)


def installed(python: Path) -> dict[str, str]:
    """Return {normalized name: version} of an environment."""
    command = [str(python), "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {canonicalize_name(entry["name"]): entry["version"] for entry in json.loads(done.stdout)}


def create(environment: Path) -> None:
    """Create an environment with Colab's versions of everything but torch."""
    table, python = read_table(), environment / "bin" / "python"
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    run(sys.executable, "-m", "venv", "--clear", environment)
    run(python, "-m", "pip", "install", "-q", *(pin for pin in pins if pin.startswith("torch==")))
    code = "import importlib.metadata as m, json; print(json.dumps(m.requires('torch')))"
    done = subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True)
    wanted = [Requirement(text) for text in json.loads(done.stdout)]
    refused = {
        canonicalize_name(requirement.name)
        for requirement in wanted
        if not requirement.specifier.contains(table.packages.get(canonicalize_name(requirement.name), "0"))
    }
    lines = [f"{name}=={version}" for name, version in table.packages.items() if name not in refused | {"torch"}]
    lines.append(f"torch=={installed(python)['torch']}")
    lines += [pin for pin in pins if pin.partition("==")[0] in TOOLS]
    (environment / "requirements.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    run(python, "-m", "pip", "install", "-q", "-r", environment / "requirements.txt")
    run(python, "-m", "pip", "check")
    run(python, "-m", "pip", "uninstall", "-q", "-y", *sorted(table.absent - set(TOOLS)))


def check(environment: Path) -> None:
    """Install the package as the set-up cell does, run the lessons, and compare the versions before and after.

    The packages that the set-up cell adds are removed at the end. Raises subprocess.CalledProcessError if a step fails,
    SystemExit if a package changes.
    """
    table, python = read_table(), (environment / "bin" / "python").absolute()
    before = installed(python)
    print_differences(table, before)
    with tempfile.TemporaryDirectory() as folder:
        run(python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT)
        for lesson in LESSONS:
            shutil.copy(ROOT / "notebooks" / f"{lesson}.ipynb", folder)
        try:
            _report_dry_run(python, Path(folder), before)
            _run_lessons(python, Path(folder))
            compare(before, installed(python))
        finally:
            if added := sorted(installed(python).keys() - before.keys()):
                run(python, "-m", "pip", "uninstall", "-q", "-y", *added)


def print_differences(table: Table, found: Mapping[str, str]) -> None:
    """Print where an environment differs from Colab. Raises SystemExit if it has a package that Colab lacks."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    print(f"Colab of {table.date}. Here: Python {version} for {table.python}")
    for name, there in table.packages.items():
        if found.get(name) != there:
            print(f"  {name} {found.get(name, 'missing')} for {there}")
    if extra := {"icft-lite", *table.absent} & found.keys() - set(TOOLS):
        sys.exit(f"{', '.join(sorted(extra))}: not on Colab; create the environment again")


def _report_dry_run(python: Path, folder: Path, before: Mapping[str, str]) -> None:
    """Print what pip would install. Raises SystemExit if it would replace a package."""
    pins, report = folder / "dry_run_pins.txt", folder / "report.json"
    pins.write_text("".join(f"{name}=={before[name]}\n" for name in ("torch", "numpy")), encoding="utf-8")
    (wheel,) = folder.glob("*.whl")
    run(python, "-m", "pip", "install", "-q", "--dry-run", "--report", report, "-c", pins, wheel)
    found = json.loads(report.read_text(encoding="utf-8"))["install"]
    after = {canonicalize_name(entry["metadata"]["name"]): entry["metadata"]["version"] for entry in found}
    print("pip would add", ", ".join(f"{name} {version}" for name, version in sorted(after.items())))
    compare(before, {**before, **after})


def nbval_options() -> list[str]:
    """Return the options that the Makefile gives nbval."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    (options,) = (line.partition(":=")[2].split() for line in makefile.splitlines() if line.startswith("NBVAL :="))
    return options


def _run_lessons(python: Path, folder: Path) -> None:
    """Run the lessons with nbval. The set-up cell of the first one installs the wheel."""
    (folder / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "nbval_sanitize.cfg", folder / "tests")
    lessons = [f"{lesson}.ipynb" for lesson in LESSONS]
    values = {**os.environ, "TQDM_MININTERVAL": "5"}  # as in the Makefile
    values.pop("PYTHONPATH", None)  # the set-up cell must not find the package of this repository
    run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *nbval_options(), *lessons, cwd=folder, env=values)


def compare(before: Mapping[str, str], after: Mapping[str, str]) -> None:
    """Raise SystemExit if a package of `before` has another version in `after`."""
    changed = [f"{name} {before[name]} → {after.get(name)}" for name in before if after.get(name) != before[name]]
    if changed:
        sys.exit(f"the set-up cell changes {', '.join(changed)}; lower the floor in pyproject.toml")
    print(f"unchanged: all {len(before)} packages")


ACTIONS = {"create": create, "check": check, "list": compare_list}


def main() -> None:
    """Create or check an environment, or compare the table with a list."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument("path", type=Path, help="folder of the environment, or the file of the list")
    args = parser.parse_args()
    ACTIONS[args.action](args.path)


if __name__ == "__main__":
    main()
