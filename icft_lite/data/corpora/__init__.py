"""Data sets with a structure of their own: a module recognizes their rows and converts them to a shape of `formats`."""

from collections.abc import Callable
from dataclasses import dataclass

from icft_lite.data.corpora import pubmedqa
from icft_lite.data.schema import RawRow


@dataclass(frozen=True)
class Corpus:
    """How the rows of one data set are read."""

    name: str
    columns: frozenset[str]
    """The columns that only this data set has. All others mean what they mean in any file."""
    matches: Callable[[RawRow], bool]
    """Return True for a row of this data set. No single column may be enough."""
    convert: Callable[[RawRow, str], RawRow]
    """(row, where) → columns of a shape of `formats`, which replace those of the row.

    Raises ICFTError, which starts with `where`.
    """
    conclusion: str = ""
    """A column of text that labelling functions read and prompts never contain; "" without one."""


CORPORA = (Corpus("PubMedQA", pubmedqa.COLUMNS, pubmedqa.matches, pubmedqa.convert, pubmedqa.CONCLUSION),)
