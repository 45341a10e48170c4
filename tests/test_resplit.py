"""Re-splits of the samples: other cases are held out, none leaks, and published splits stay what they are."""

import hashlib
import json

import pytest

from icft_lite.data.samples import sample_bundle, samples_dir
from icft_lite.errors import ICFTError
from icft_lite.experiments.resplit import check_leaks, resplit, resplit_files


def test_a_new_split_holds_out_other_cases_and_leaks_none():
    files = resplit_files(1)
    default = {
        name: [json.loads(line) for line in (samples_dir() / name).read_text("utf-8").splitlines()] for name in files
    }
    assert files == resplit_files(1) != resplit_files(2)
    assert all(files[name] == default[name] for name in files if name.startswith("general"))
    for name in ("medical_train.jsonl", "medical_pool_questions.jsonl", "medical_test.jsonl"):
        new, old = (sorted(example["topic"] for example in one[name]) for one in (files, default))
        assert new == old, "as many of each topic"
    new, old = (
        {example["entity"] for example in one["medical_test.jsonl"] if example["kind"] == "rule"}
        for one in (files, default)
    )
    assert len(new & old) < 0.5 * len(new)
    check_leaks(files)
    files["medical_train.jsonl"].append(dict(prompt=files["medical_test.jsonl"][0]["question"]))
    with pytest.raises(ICFTError, match="1 held-out"):
        check_leaks(files)


def test_split_1_is_the_published_one():
    """Its results are in docs/results.md. A corrected table may change the hash; a changed seed must not."""
    tests = resplit_files(1)["medical_test.jsonl"]
    entities = sorted({example["entity"] for example in tests if example["kind"] == "rule"})
    assert hashlib.sha256("\n".join(entities).encode()).hexdigest()[:16] == "56afadc1fe23b744"


def test_the_bundle_of_a_re_split_has_its_examples_and_gold_labels():
    files, data = resplit_files(1), resplit(1)
    assert set(data.trusted["id"]) == {row["id"] for row in files["medical_train.jsonl"]}
    assert set(data.pool["id"]) == set(data.pool_gold)
    assert data.content_hash() != sample_bundle().content_hash() == resplit(0).content_hash()
