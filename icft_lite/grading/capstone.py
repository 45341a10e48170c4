"""A capstone: its protocol, and the kit that a course hands out.

Students train on the public part of a domain, within a token budget, and submit an adapter. The grader scores it on
hidden questions of the same domain. `build_kit` splits the domain:

    KIT/public/protocol.json      the rules, without the seed of the split
    KIT/public/domain.jsonl       labelled examples for training, validation and practice
    KIT/public/practice_ids.txt   ids of the practice questions, for --test-ids
    KIT/hidden.jsonl              hidden questions: for the instructor only
    KIT/reference/SEED            runs of the reference, trained at the first grading
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icft_lite.config import ICFTConfig
from icft_lite.errors import ICFTError
from icft_lite.utils.io import write_json, write_text

if TYPE_CHECKING:  # specifications are read by commands that need no data
    from datasets import Dataset

    from icft_lite.data.bundle import DataBundle

SAMPLE_FILES = ("medical_train", "medical_validation", "medical_test")
PRACTICE_SHARE = 0.1
"""Share of the groups of a domain whose questions are for practice."""
MIN_HIDDEN = 30
"""A domain with fewer hidden questions is refused: the interval of a score would be too wide to rank entries."""
REFERENCE: dict[str, Any] = {
    "method": "replay",
    "consolidation.max_drop": 0.03,
    "short_term.share": 0.0,
    "long_term.share": 0.25,
    "long_term.self_prompts": 0,
}
"""Settings of the reference: replay of general examples, with a retention constraint stricter than that of entries."""


@dataclass(frozen=True)
class Capstone:
    """The protocol of a capstone: what is fixed, and how entries are scored."""

    id: str = "C1"
    title: str = "Beat replay on your own domain"
    version: str = "1.0"
    base: str = "tiny"
    """Model that every entry adapts: `tiny`, `smollm2`, a folder or a Hub name."""
    data: str = ""
    """File of the domain, in any format that `icft-lite train` reads; "": the samples of `topics`."""
    topics: tuple[str, ...] = ("urgency", "department")
    """Topics of the samples that are the domain; not used with `data`."""
    max_tokens: int = 80_000
    """Token budget of a run, as `optim.max_tokens` counts it."""
    min_retention: float = 0.95
    """Entries that retain less of the base's general score are not valid."""
    hidden_share: float = 0.3
    """Share of the groups of the domain whose questions are hidden."""
    reference: Mapping[str, Any] = field(default_factory=lambda: dict(REFERENCE))
    """Settings of the run that entries are compared with, by dotted name."""
    reference_seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the reference. Its answers are averaged over them."""
    seed: str = ""
    """Chooses the hidden questions. It stays with the instructor."""

    def reference_config(self, seed: int) -> ICFTConfig:
        """Return the configuration of one run of the reference."""
        fixed = {"model": self.base, "optim.max_tokens": self.max_tokens, "seed": seed}
        return ICFTConfig.from_dict({**self.reference, **fixed})


@dataclass(frozen=True)
class Kit:
    """A kit as the grader reads it."""

    folder: Path
    capstone: Capstone
    public: "DataBundle"
    hidden: "Dataset"


def build_kit(capstone: Capstone, folder: Path | str) -> Path:
    """Split the domain and write a kit to a new folder. Returns the folder with the public part.

    The groups of the split are those of `data.groups.group_hashes`: examples with the same entity, context or prompt
    are in one part. Unlabelled examples are left out. Raises ICFTError if the folder is not empty, the domain cannot be
    read, or it has too few questions.
    """
    from icft_lite.data.groups import group_hashes
    from icft_lite.data.splits import read_examples, select_indices
    from icft_lite.data.tables import column

    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ICFTError(f"{folder}: it is not empty; name a new folder for the kit")
    examples = read_examples(capstone.data or _sample_rows(capstone.topics), domain="medical")
    labelled = select_indices(examples, [i for i, label in enumerate(column(examples, "label")) if label >= 0])
    if labelled is None:
        raise ICFTError(f"{capstone.data}: no example has an answer; a capstone needs labelled examples")
    groups = group_hashes(labelled, _number(f"{capstone.id}/{capstone.seed}"))
    order = sorted(set(groups))
    hidden_size, practice_size = (round(share * len(order)) for share in (capstone.hidden_share, PRACTICE_SHARE))
    hidden, practice = set(order[:hidden_size]), set(order[hidden_size : hidden_size + practice_size])
    parts = {
        "hidden": [i for i, group in enumerate(groups) if group in hidden],
        "public": [i for i, group in enumerate(groups) if group not in hidden],
    }
    if len(parts["hidden"]) < MIN_HIDDEN:
        raise ICFTError(
            f"{capstone.data or 'samples'}: {len(parts['hidden'])} hidden questions; at least {MIN_HIDDEN} are needed: "
            f"give more examples, or raise hidden_share"
        )
    public = folder / "public"
    _write_examples(folder / "hidden.jsonl", labelled.select(parts["hidden"]))
    _write_examples(public / "domain.jsonl", labelled.select(parts["public"]))
    names = [name for name, group in zip(column(labelled, "id"), groups, strict=True) if group in practice]
    write_text(public / "practice_ids.txt", "\n".join(names) + "\n")
    rules = {name: value for name, value in asdict(capstone).items() if name not in ("seed", "data")}
    write_json(public / "protocol.json", {**rules, "hidden_questions": len(parts["hidden"])})
    return public


def load_public(folder: Path | str) -> tuple[Capstone, "DataBundle"]:
    """Return (protocol, data) of the public part of a kit. Raises ICFTError if it is not complete."""
    from icft_lite.data.sources import bundle_from_files, default_general

    folder = Path(folder)
    try:
        rules = json.loads((folder / "protocol.json").read_text(encoding="utf-8"))
        known = {one.name: rules[one.name] for one in fields(Capstone) if one.name in rules}
    except (OSError, ValueError, TypeError) as error:
        raise ICFTError(f"{folder}: it has no protocol.json that can be read; give the folder of a kit") from error
    known |= {name: tuple(known[name]) for name in ("topics", "reference_seeds") if name in known}
    capstone = Capstone(**known)
    files = [folder / "domain.jsonl"]
    return capstone, bundle_from_files(files, default_general(capstone.base), folder / "practice_ids.txt")


def load_kit(folder: Path | str) -> Kit:
    """Return a kit with its hidden questions. Raises ICFTError if it is not complete."""
    from icft_lite.data.splits import read_examples

    folder = Path(folder)
    capstone, public = load_public(folder / "public")
    if not (folder / "hidden.jsonl").is_file():
        raise ICFTError(f"{folder}: it has no hidden.jsonl; grade with the whole kit, not with its public part")
    return Kit(folder, capstone, public, read_examples(folder / "hidden.jsonl", domain="medical"))


def practice_kit(public: Path | str) -> Kit:
    """Return a kit for a student, whose "hidden" questions are the practice questions of the public part.

    `CapstoneGrader` then says of an entry what the course's grader would say, with other questions. The reference has
    one seed, so that it is trained once, next to the public part. Raises ICFTError if the public part is not complete.
    """
    public = Path(public)
    capstone, data = load_public(public)
    if data.test is None:
        raise ICFTError(f"{public}: it has no practice questions; give the public part of a kit")
    return Kit(public.parent, replace(capstone, reference_seeds=capstone.reference_seeds[:1]), data, data.test)


def _sample_rows(topics: Iterable[str]) -> list[dict[str, Any]]:
    """Return the labelled rows of the samples that have one of these topics. Raises ICFTError if there are none."""
    from icft_lite.data.files import read_jsonl
    from icft_lite.data.samples import samples_dir

    wanted = set(topics)
    rows = [row for name in SAMPLE_FILES for _, _, row in read_jsonl(samples_dir() / f"{name}.jsonl")]
    if unknown := wanted - {row["topic"] for row in rows}:
        raise ICFTError(f"topics: the samples have no topic {min(unknown)!r}; name others, or a file (data)")
    return [row for row in rows if row["topic"] in wanted]


def _write_examples(path: Path, examples: "Dataset") -> None:
    """Write canonical examples as JSON lines, in a format that `read_examples` reads."""
    write_text(path, "".join(json.dumps(dict(one), ensure_ascii=False) + "\n" for one in examples))


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
