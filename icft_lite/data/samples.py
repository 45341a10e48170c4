"""The bundled samples: a small general world and a small medical world (see data_samples/README.md)."""

from pathlib import Path

from datasets import Dataset

from icft_lite.data.bundle import DataBundle
from icft_lite.data.files import read_jsonl
from icft_lite.data.splits import read_examples
from icft_lite.data.tables import column
from icft_lite.errors import ICFTError

SAMPLE_FILES = {
    "general_pretrain": ["general_pretrain"],
    "general_memory": ["general_memory"],
    "general_validation": ["general_validation"],
    "general_test": ["general_test"],
    "medical_train": ["medical_train"],
    "medical_validation": ["medical_validation", "medical_validation_pairs"],
    "medical_pool": ["medical_pool_questions", "medical_pool_pairs"],
    "medical_test": ["medical_test", "medical_test_pairs", "medical_test_replies"],
}
"""The bundled sample sets, and the files that each consists of."""


def samples_dir() -> Path:
    """Return the folder of the samples: inside the package if it came as a wheel, else next to it."""
    package = Path(__file__).parent.parent
    inside = package / "data_samples"
    return inside if inside.exists() else package.parent / "data_samples"


def load_samples(name: str, folder: Path | None = None) -> Dataset:
    """Return a sample set, a key of SAMPLE_FILES: a bundled one, or one from files of the same names in `folder`.

    Raises ICFTError for any other name.
    """
    if name not in SAMPLE_FILES:
        raise ICFTError(f"samples: {name!r} is unknown; choose one of {', '.join(SAMPLE_FILES)}")
    return read_examples(
        [(folder or samples_dir()) / f"{file}.jsonl" for file in SAMPLE_FILES[name]], domain=name.split("_")[0]
    )


def pool_gold(folder: Path | None = None) -> dict[str, int]:
    """Return the gold labels of the samples' pool, from id to the index of the right response.

    Only to evaluate weak labels, never to train.
    """
    pool = set(column(load_samples("medical_pool", folder), "id"))
    return {
        row["id"]: row["answer"]
        for path in sorted(((folder or samples_dir()) / "gold").glob("*.jsonl"))
        for _, _, row in read_jsonl(path)
        if row["id"] in pool
    }


def sample_bundle(folder: Path | None = None) -> DataBundle:
    """Return the bundled samples, or those in `folder`, as a DataBundle."""
    pool = load_samples("medical_pool", folder)
    return DataBundle(
        trusted=load_samples("medical_train", folder),
        pool=pool,
        validation=load_samples("medical_validation", folder),
        test=load_samples("medical_test", folder),
        general_memory=load_samples("general_memory", folder),
        general_validation=load_samples("general_validation", folder),
        general_test=load_samples("general_test", folder),
        pool_gold=pool_gold(folder),
        own_lfs=dict.fromkeys(column(pool, "id"), "samples"),
        sources={"samples": ""},
    )
