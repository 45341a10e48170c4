"""Lesson 11: its sums are those of one process, its counts the models', its rules find what they name."""

import ast
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from test_notebooks import build, cells, check_exercise, notebook

from icft_lite.doctor import MODELS as DOCTOR_MODELS

SOURCE = Path(build.HERE) / "src" / "11_scaling_out.py"


@pytest.fixture(scope="module")
def book():
    return build.read(SOURCE)


@pytest.fixture(scope="module")
def built(book):
    """What the lesson defines, run from its own cells; nothing is launched or trained."""
    wanted = (
        "import os",
        "SETUP = ",
        "lora, base_parameters",
        "def speed_up",
        "def adapter_changes",
        "MODELS = ",
        "def largest",
        "SHARDS = ",
        "CONFIG = ",
        "def plugin",
        "def problems",
    )
    space, folder, gpus = {}, Path.cwd(), os.environ.get("CUDA_VISIBLE_DEVICES")
    for cell in cells(book, "code"):
        if any(mark in cell.source for mark in wanted):
            exec(cell.source, space)
    os.chdir(folder)  # the lesson moves to a folder of its own, and hides the GPUs
    os.environ.pop("CUDA_VISIBLE_DEVICES")
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    return space


def test_sums_over_the_whole_count_are_the_whole_batchs_gradient_and_means_of_means_are_not(built):
    """What the script's two processes do, in one."""
    here = {}
    exec(built["SETUP"], here)
    x, y, parts = here["x"], here["y"], (slice(0, 3), slice(3, 12))

    def gradient(part, divide):
        return here["gradient"](here["model"], x[part], y[part], divide)

    whole = gradient(slice(None), 12)
    assert torch.allclose(sum(gradient(part, 12) for part in parts), whole, atol=1e-6)
    means = sum(gradient(part, len(y[part])) for part in parts) / 2
    assert (means - whole).norm() > 0.05 * whole.norm()


def test_adapters_are_compared_by_their_change_which_signs_of_an_svd_do_not_affect(built, tmp_path):
    torch.manual_seed(0)
    tensors = {f"{layer}.lora_{part}.weight": torch.randn(shape) for layer in ("q", "up")
               for part, shape in (("A", (2, 5)), ("B", (4, 2)))}  # fmt: skip
    files = [tmp_path / f"{name}.safetensors" for name in ("one", "twin", "other")]
    save_file(tensors, files[0])
    save_file({name: -tensor for name, tensor in tensors.items()}, files[1])
    save_file({name: -tensor if "up.lora_A" in name else tensor for name, tensor in tensors.items()}, files[2])
    changes = [{"load_file": load_file, **built}["adapter_changes"](file) for file in files]
    assert len(changes[0]) == 2 and changes[0][0].shape == (4, 5)
    assert all(map(torch.equal, changes[0], changes[1])) and not all(map(torch.equal, changes[0], changes[2]))


def test_the_stored_comparison_of_two_processes_found_no_difference():
    (cell,) = [cell for cell in cells(notebook(SOURCE), "code") if "changes = [adapter_changes(" in cell.source]
    assert "False" not in cell.outputs[0].text and "to 1e-3: True" in cell.outputs[0].text


def test_the_scripts_are_python_and_import_only_what_every_install_has(built, book):
    scripts = [built["SETUP"], built["SCRIPT"], built["SHARDS"]]
    for script in scripts:
        for node in ast.walk(ast.parse(script)):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                assert {name.split(".")[0] for name in names} <= {"torch", "bitsandbytes", "functools", "json", "os"}


@pytest.mark.parametrize("name", ["Qwen3-0.6B", "Qwen3-1.7B", "Qwen3-4B", "Qwen3-8B"])
def test_counts_are_those_of_the_architecture(built, name):
    from transformers import AutoModelForCausalLM, Qwen3Config

    hidden, layers, mlp, heads, kv, width, vocabulary, matrices = DOCTOR_MODELS[name]
    assert built["MODELS"][name] == (hidden, layers, mlp, heads * width, kv * width, vocabulary, matrices)
    config = Qwen3Config(
        hidden_size=hidden,
        num_hidden_layers=layers,
        intermediate_size=mlp,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        head_dim=width,
        vocab_size=vocabulary,
        tie_word_embeddings=matrices == 1,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    expected = sum(p.numel() for p in model.parameters() if p.dim() == 2)
    assert sum(built["counts"](*built["MODELS"][name])[:2]) == expected


def test_the_numbers_taken_over_from_lesson_10_are_right(built):
    assert built["lora"] == built["counts"](*built["MODELS"]["Qwen3-0.6B"])[2]
    largest = sum(built["counts"](*built["MODELS"]["Llama-3-70B"])[:2])
    assert 70e9 < largest < 71e9


def test_memory_per_gpu_falls_with_shards_and_never_below_the_gathered_layer(built):
    per_gpu, shape = built["per_gpu"], built["MODELS"]["Llama-3-70B"]
    values = [per_gpu(shape, "fsdp", n) for n in (1, 2, 8, 1000)]
    assert values == sorted(values, reverse=True)
    assert values[-1] > 2 * built["counts"](*shape)[0] / shape[1] / 2**30
    assert per_gpu(shape, "qlora", 1) == per_gpu(shape, "qlora", 8) < per_gpu(shape, "full") / 3
    assert built["speed_up"](0, 8) == 8 and built["speed_up"](1, 8) == 1
    assert built["speed_up"](0.1, 10**9) == pytest.approx(10)


@pytest.fixture
def settings(built, tmp_path):
    from accelerate.commands.config.config_args import load_config_from_file

    path = tmp_path / "fsdp.yaml"
    path.write_text(built["CONFIG"])
    return load_config_from_file(str(path)).fsdp_config


def test_the_configuration_passes_accelerates_own_checks_and_ours(built, settings):
    from torch.distributed.fsdp import ShardingStrategy

    plugin = built["plugin"](settings)
    assert plugin.sharding_strategy is ShardingStrategy.FULL_SHARD and plugin.use_orig_params is False
    assert built["problems"](settings, built["four_bit"], torch.bfloat16) == []


@pytest.mark.parametrize(
    "change, found",
    [
        (dict(fsdp_use_orig_params=True), "use_orig_params"),
        (dict(fsdp_auto_wrap_policy="NO_WRAP"), "wrap by"),
        (dict(fsdp_sync_module_states=False), "needs sync_module_states"),
        (dict(fsdp_cpu_ram_efficient_loading=False), "every process reads"),
        (dict(fsdp_state_dict_type="LOCAL_STATE_DICT"), "state_dict_type"),
    ],
)
def test_each_rule_finds_its_fault_alone(built, settings, change, found):
    (problem,) = built["problems"]({**settings, **change}, built["four_bit"], torch.bfloat16)
    assert found in problem


def test_the_storage_rules(built, settings):
    from transformers import BitsAndBytesConfig

    wrong = {}
    for storage in (torch.uint8, torch.float32):
        quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_storage=storage)
        wrong[storage] = built["problems"](settings, quantization, torch.bfloat16)
    assert len(wrong[torch.uint8]) == 2 and len(wrong[torch.float32]) == 1
    assert "dtype" in wrong[torch.float32][0]


def test_the_stored_outputs_show_that_processes_agreed():
    stored = "\n".join(output.get("text", "") for cell in cells(notebook(SOURCE), "code") for output in cell.outputs)
    for line in (
        "sums     equals the whole batch's, to 1e-5: True",
        "means    equals the whole batch's, to 1e-5: False",
        "all losses of all steps equal, to 1e-4: True",
        "memory_examples equal in every stage: True",
        "the same adapter after the step, to 1e-5: True",
        "ours: []",
    ):
        assert line in stored, line


def test_the_exercises_accept_their_solutions_and_reject_wrong_ones(book, built):
    wrong = [
        [
            "def whole_loss(means, counts): return sum(means) / len(means)",
            "def whole_loss(means, counts): return sum(m * c for m, c in zip(means, counts))",
        ],
        [
            "def my_shard(flat, rank, ranks): return flat.chunk(ranks)[min(rank, len(flat.chunk(ranks)) - 1)]",
            "def my_shard(flat, rank, ranks): return flat[rank::ranks]",
            "def my_shard(flat, rank, ranks): return F.pad(flat, (0, ranks)).chunk(ranks)[rank]",
        ],
        [
            "def least_gpus(shape, room, activations): return 2",
            "def least_gpus(shape, room, activations):\n"
            "    return next((n for n in range(1, 65) if per_gpu(shape, 'fsdp', n) <= room), None)",
            "def least_gpus(shape, room, activations):\n"
            "    return int(per_gpu(shape, 'qlora') // (room - activations)) + 1",
        ],
    ]
    space = dict(torch=torch, F=F, MODELS=built["MODELS"], per_gpu=built["per_gpu"])
    for number in range(len(wrong)):
        check_exercise(book, number, wrong, space)
