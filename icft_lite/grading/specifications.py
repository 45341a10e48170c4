"""Find and load the specifications of assignments and capstones: Python files that the course's author trusts."""

import importlib.util
import sys
from pathlib import Path
from typing import Protocol, TypeVar

from icft_lite.errors import ICFTError
from icft_lite.grading.package_copy import PACKAGE
from icft_lite.grading.parts import Assignment

SPECS = Path("notebooks", "assignments", "specs")
PUBLISHED = "published.json"
"""File of scripts/release.py in the folder of specifications: {assignment: {part: source of the public solution}}."""


class Specification(Protocol):
    """What all specifications have: Assignment, Capstone."""

    @property
    def id(self) -> str:
        """Return the id by which a command names it."""


Kind = TypeVar("Kind", bound=Specification)


def find_specs(folder: Path | None = None) -> Path:
    """Return the folder with the specifications: `folder`, or the one of the checkout. Raises ICFTError."""
    places = [folder, folder / "specs"] if folder else [SPECS, PACKAGE.parent / SPECS]
    place = next((one for one in places if any(one.glob("*.py"))), None)
    if place is None:
        raise ICFTError(
            f"{places[0]}: there are no specifications of assignments; name their folder with --assignments"
        )
    return place


def load_assignments(place: Path) -> dict[str, Assignment]:
    """Return {id: assignment} of the specifications in a folder: the Python files that define ASSIGNMENT."""
    return load_specifications(place, "ASSIGNMENT", Assignment)


def load_specifications(place: Path, variable: str, kind: type[Kind]) -> dict[str, Kind]:
    """Return {id: value} of a variable in the specifications of a folder, where it is of a kind that has an id.

    A specification is a Python file. It may import other files of the folder.
    """
    found: dict[str, Kind] = {}
    names = [path.stem for path in place.glob("*.py")]
    elsewhere = {name: sys.modules.pop(name) for name in names if name in sys.modules}  # of another folder
    sys.path.insert(0, str(place.resolve()))
    try:
        for path in sorted(place.glob("*.py")):
            spec = importlib.util.spec_from_file_location(f"assignment_{path.stem}", path)
            module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
            sys.modules[module.__name__] = module
            spec.loader.exec_module(module)  # type: ignore[union-attr]
            if isinstance(one := getattr(module, variable, None), kind):
                found[one.id] = one
    finally:
        sys.path.remove(str(place.resolve()))
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(elsewhere)
    return found
