"""Fixtures for all tests, and an environment without network access, windows or settings of the user."""

import json
import os
from pathlib import Path

# jupytext must come before jsonargparse, which copies the table of YAML representers that jupytext adds to
# (jsonargparse 4.53.0, _namespace.py; jupytext 1.19.6, header.py).
import jupytext  # noqa: F401
import pytest

os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    MPLBACKEND="Agg",
    TOKENIZERS_PARALLELISM="false",
)
os.environ.pop("ICFT_PROFILE", None)
if not os.environ.get("ICFT_TEST_GPU"):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the reason is in test_gpu.py


@pytest.fixture
def write(tmp_path):
    """write(name, examples or text) → path of a new file; examples are written as JSON lines."""

    def make(name, content):
        path = tmp_path / name
        if not isinstance(content, str):
            content = "".join(json.dumps(example) + "\n" for example in content)
        path.write_text(content, encoding="utf-8")
        return path

    return make


@pytest.fixture(scope="session")
def real_data():
    """The folder that ICFT_REAL_DATA names, with pubmedqa/ and medquad/ as published; without it, skip the test."""
    folder = Path(os.environ.get("ICFT_REAL_DATA", "absent"))
    if not folder.is_dir():
        pytest.skip("set ICFT_REAL_DATA to a folder with pubmedqa/ori_pqal.json and medquad/*.jsonl")
    return folder


@pytest.fixture(scope="session")
def base():
    """(model, tokenizer) of the embedded base in NF4, shared by all tests: no test may change it."""
    from icft_lite.modeling.base import load_base

    return load_base("tiny")


@pytest.fixture(scope="session")
def smollm2():
    """(model, tokenizer) of the real chat model in fp32; no test may change it. Downloaded and converted if needed."""
    from icft_lite.errors import ICFTError
    from icft_lite.modeling.base import load_base

    try:
        return load_base("smollm2", load_in_4bit=False)
    except ICFTError as error:
        if "cannot be downloaded" not in str(error):  # a damaged file or another hash is a failure
            raise
        pytest.skip(str(error))  # no network and no cache: the message says how to get the model


@pytest.fixture(scope="session")
def _adapted():
    from icft_lite.modeling.adapters import adapter_tensors, add_adapters
    from icft_lite.modeling.base import load_base

    model, tokenizer = load_base("tiny")
    model = add_adapters(model, rank=8, alpha=16, seed=0)
    return model, tokenizer, [tensor.detach().clone() for tensor in adapter_tensors(model, "fast")]


@pytest.fixture
def adapted(_adapted):
    """(model, tokenizer): another copy with adapters `fast` and `slow` of rank 8, reset for each test."""
    import torch

    from icft_lite.modeling.adapters import activate_adapter, adapter_tensors

    model, tokenizer, initial = _adapted
    with torch.no_grad():
        for name in ("fast", "slow"):
            for tensor, value in zip(adapter_tensors(model, name), initial):
                tensor.copy_(value)
                tensor.grad = None
    activate_adapter(model, "fast")
    return model.eval(), tokenizer


@pytest.fixture
def shake():
    """shake(model, adapter, size, seed): add noise to an adapter, as a stand-in for training; return its tensors."""
    import torch

    from icft_lite.modeling.adapters import adapter_tensors

    def noise(model, name, size=0.05, seed=0):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for tensor in adapter_tensors(model, name):
                tensor += size * torch.randn(tensor.shape, generator=generator).to(tensor)
        return [tensor.detach().clone() for tensor in adapter_tensors(model, name)]

    return noise


@pytest.fixture
def example():
    """example(**columns) → a canonical example; a reply, unless the columns say otherwise."""

    def make(**columns):
        defaults = dict(
            id="r",
            task="response",
            domain="",
            topic="",
            level="",
            context="",
            prompt="Define nephritis.",
            history=[],
            responses=["inflammation of the kidney"],
            label=0,
            posterior=[],
            facts=[],
            kind="",
            entity="",
        )
        return {**defaults, **columns}

    return make


@pytest.fixture
def row(example):
    """The former name of `example`."""
    return example
