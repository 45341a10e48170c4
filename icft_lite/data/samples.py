"""The bundled samples."""

from pathlib import Path

from icft_lite.data.bundle import DataBundle
from icft_lite.data.formats import answer_index
from icft_lite.data.readers import read_jsonl
from icft_lite.data.splits import read_examples
from icft_lite.errors import ICFTError


def samples_dir():
    """Where the bundled samples lie: beside the package in a wheel, beside the repository otherwise."""
    here = Path(__file__).parent.parent
    inside = here / "data_samples"
    return inside if inside.exists() else here.parent / "data_samples"


FILES = {
    "general_pretrain": ["general_pretrain"],
    "general_memory": ["general_memory"],
    "general_validation": ["general_validation"],
    "general_test": ["general_test"],
    "medical_train": ["medical_train"],
    "medical_validation": ["medical_validation", "medical_validation_pairs"],
    "medical_pool": ["medical_pool_questions", "medical_pool_pairs"],
    "medical_test": ["medical_test", "medical_test_pairs", "medical_test_replies"],
}
"""The bundled sample sets and the files that each is joined from."""


def load_samples(name):
    """A bundled sample set: a key of FILES. Raises ICFTError for any other name."""
    if name not in FILES:
        raise ICFTError(f"samples: {name!r} is unknown; choose one of {', '.join(FILES)}")
    return read_examples([samples_dir() / f"{file}.jsonl" for file in FILES[name]], domain=name.split("_")[0])


def pool_gold():
    """Gold labels of the bundled pool, id -> index of the right response. For scoring only."""
    options = {row["id"]: row["responses"] for row in load_samples("medical_pool")}
    return {
        row["id"]: answer_index(row["answer"], options[row["id"]], where)
        for path in sorted((samples_dir() / "gold").glob("*.jsonl"))
        for where, _, row in read_jsonl(path)
        if row["id"] in options
    }


def sample_bundle():
    """The bundled samples as a DataBundle."""
    names = [f"medical_{part}" for part in ("train", "pool", "validation", "test")]
    names += [f"general_{part}" for part in ("memory", "validation", "test")]
    return DataBundle(*map(load_samples, names), pool_gold=pool_gold(), sources={"samples": ""})
