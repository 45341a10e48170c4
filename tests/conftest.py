"""What all tests share: no network, no window, no surprises from the user's environment."""

import json
import os
from pathlib import Path

import pytest

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", MPLBACKEND="Agg",
                  TOKENIZERS_PARALLELISM="false")
os.environ.pop("ICFT_PROFILE", None)


@pytest.fixture
def write(tmp_path):
    """write(name, rows or text) -> path of a new file; rows are written as JSON lines."""
    def make(name, content):
        path = tmp_path / name
        if not isinstance(content, str):
            content = "".join(json.dumps(row) + "\n" for row in content)
        path.write_text(content, encoding="utf-8")
        return path
    return make


@pytest.fixture(scope="session")
def real_data():
    """Folder with pubmedqa/ and medquad/ as published, named by ICFT_REAL_DATA; the test skips without it."""
    folder = Path(os.environ.get("ICFT_REAL_DATA", "absent"))
    if not folder.is_dir():
        pytest.skip("set ICFT_REAL_DATA to a folder with pubmedqa/ori_pqal.json and medquad/*.jsonl")
    return folder
