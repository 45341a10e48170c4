"""Find and read submissions. They are not trusted: sizes, names and kinds of files are checked first."""

import hashlib
import json
import os
import stat
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from icft_lite.errors import ICFTError

NOTEBOOK_BYTES, FOLDER_BYTES, MAX_FILES, MAX_CELLS = 5 * 2**20, 50 * 2**20, 200, 1000
"""Limits of a notebook and of all files of a submission; bytes are counted after decompression."""


@dataclass(frozen=True)
class Submission:
    """One notebook with the files that came with it."""

    name: str
    digest: str
    """SHA-256 of all files, hexadecimal."""
    cells: tuple[str, ...]
    """Source of the code cells, in order."""
    assignment: str = ""
    """Id in the notebook's metadata ({"icft_lite": {"assignment": …}}), if any."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Other files: relative path → content."""


def find_submissions(paths: Iterable[Path]) -> list[tuple[str, Path]]:
    """Return (name, path) of each submission, in the order of `paths` and by name inside a folder.

    The name is the path as it was given, so that two submissions never have the same name.

    A path is a notebook, a zip file, or a folder of submissions. In such a folder every notebook, every zip file and
    every sub-folder is one submission; other files and hidden ones are ignored. Raises ICFTError if there is none.
    """
    every: list[Path] = []
    for path in paths:
        if path.suffix in (".ipynb", ".zip") and (path.is_file() or path.is_symlink()):
            every.append(path)
            continue
        inside = sorted(path.iterdir()) if path.is_dir() else []
        found = [one for one in inside if one.suffix in (".ipynb", ".zip") or one.is_dir() or one.is_symlink()]
        found = [one for one in found if not one.name.startswith(".")]
        if not found:
            raise ICFTError(f"{path}: there is no notebook; give .ipynb or .zip files, or a folder that has some")
        every += found
    return [(path.as_posix(), path) for path in every]


def read_submission(name: str, path: Path) -> Submission:
    """Return a submission.

    Raises ICFTError for what is refused: symbolic links and special files, names that lead out of the folder or have
    control characters, too many or too large files, no or several notebooks, a notebook that cannot be read.
    """
    if path.is_symlink():
        raise ICFTError("it is a symbolic link; submit the file itself")
    if not name.isprintable():
        raise ICFTError("its name has control characters; rename it")
    files = read_folder(path) if path.is_dir() else read_zip(path) if path.suffix == ".zip" else read_alone(path)
    notebooks = [one for one in files if one.endswith(".ipynb") and not _is_a_copy(PurePosixPath(one))]
    if len(notebooks) != 1:
        raise ICFTError(f"it has {len(notebooks)} notebooks; submit exactly one")
    digest = hash_files(files)
    cells, assignment = read_notebook(files.pop(notebooks[0]))
    return Submission(name, digest, cells, assignment, files)


def _is_a_copy(path: PurePosixPath) -> bool:
    """Return whether a notebook is one that Jupyter or macOS keeps beside the real one."""
    return bool({".ipynb_checkpoints", "__MACOSX"} & {*path.parts}) or path.name.startswith("._")


def hash_files(files: Mapping[str, bytes]) -> str:
    """Return the SHA-256 of names and contents, hexadecimal."""
    digest = hashlib.sha256()
    for one in sorted(files):
        digest.update(f"{one}\0{len(files[one])}\0".encode(errors="replace") + files[one])
    return digest.hexdigest()


def read_alone(path: Path) -> dict[str, bytes]:
    """Return {name: content} of one file. Links are not followed, and only regular files are read."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ICFTError(f"{path.name!r} is not a regular file; remove it")
        return {path.name: file.read(FOLDER_BYTES + 1)}


def read_folder(folder: Path) -> dict[str, bytes]:
    """Return {relative path: content} of a folder."""
    files: dict[str, bytes] = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise ICFTError(f"{inside!r} is a symbolic link; submit the file itself")
        if not path.is_dir():
            files[inside] = read_alone(path)[path.name]
            check_files(files)
    return files


def read_zip(path: Path) -> dict[str, bytes]:
    """Return {relative path: content} of a zip file. Zip files in it are not opened."""
    files: dict[str, bytes] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if stat.S_ISLNK(entry.external_attr >> 16):
                    raise ICFTError(f"{entry.filename!r} is a symbolic link; submit the file itself")
                if not entry.is_dir():
                    left = FOLDER_BYTES - sum(map(len, files.values()))
                    with archive.open(entry) as file:  # the size in the header may be wrong, so the read is limited
                        files[entry.filename] = file.read(left + 1)
                    check_files(files)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise ICFTError(f"the zip file cannot be read ({error}); make it again, without a password") from None
    except Exception as error:  # zlib, bz2 and lzma have errors of their own
        if isinstance(error, ICFTError):
            raise
        raise ICFTError(f"the zip file is damaged ({error}); make it again") from None
    return files


def check_files(files: dict[str, bytes]) -> None:
    """Raise ICFTError if a name or the sizes are not acceptable. Checks the name that was added last."""
    name = next(reversed(files))
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts or "\\" in name or ":" in name or not name.isprintable() or not parts:
        raise ICFTError(f"the file name {name[:80]!r} is not acceptable; use a relative path inside the submission")
    if len(files) > MAX_FILES or sum(map(len, files.values())) > FOLDER_BYTES:
        raise ICFTError(
            f"it has more than {MAX_FILES} files or {FOLDER_BYTES // 2**20} MiB; submit only what is needed"
        )


def read_notebook(content: bytes) -> tuple[tuple[str, ...], str]:
    """Return (sources of the code cells, id of the assignment or "") of a notebook. Raises ICFTError."""
    if len(content) > NOTEBOOK_BYTES:
        raise ICFTError(
            f"the notebook has more than {NOTEBOOK_BYTES // 2**20} MiB; clear its outputs and save it again"
        )
    try:
        notebook = json.loads(content.decode("utf-8-sig"))
        cells = [source_of(cell) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise ICFTError(f"the notebook cannot be read ({type(error).__name__}); save it again in Jupyter") from None
    if len(cells) > MAX_CELLS:
        raise ICFTError(f"the notebook has {len(cells)} code cells; at most {MAX_CELLS} are accepted")
    metadata: Any = notebook.get("metadata")
    entry = metadata.get("icft_lite") if isinstance(metadata, dict) else None
    assignment = entry.get("assignment") if isinstance(entry, dict) else None
    return tuple(cells), assignment if isinstance(assignment, str) else ""


def source_of(cell: dict[str, Any]) -> str:
    """Return the source of a cell, which is a string or a list of lines. Raises TypeError."""
    lines = cell["source"]
    return "".join([lines] if isinstance(lines, str) else lines)
