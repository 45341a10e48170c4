"""Lesson 10: its data has the public formats, its budget is the package's, its ledger counts, its exercises judge."""

import os
import sys
import types
from pathlib import Path

import pandas as pd
import pytest
import torch
from test_notebooks import build, cells, check_exercise, checked, exercises, notebook, said, solve

from icft_lite import Encoder, ICFTError, read_examples
from icft_lite.doctor import MODELS, estimate
from icft_lite.evaluation import is_short_answer
from icft_lite.experiments.own_data import NUM_QUESTIONS, score_changes
from icft_lite.experiments.recorded import LESSON_10, load_recorded
from icft_lite.modeling.losses import chunk_size, token_kl
from icft_lite.reporting.concepts.memory_budget import draw
from icft_lite.reporting.lessons.budget import memory_bars

SOURCE = Path(build.HERE) / "src" / "10_your_own_model.py"


@pytest.fixture(scope="module")
def book():
    return build.read(SOURCE)


@pytest.fixture(scope="module")
def built(book):
    """What the lesson defines, run from its own cells; nothing is trained or loaded."""
    wanted = (
        "import json",
        "MODEL = ",
        "LEAFLETS = ",
        "ABSTRACTS = ",
        "def leaflet_row",
        "CHAT = ",
        "def budget",
        "class Ledger",
        "PUSH_TO = ",
    )
    space, folder = {}, Path.cwd()
    for cell in cells(book, "code"):
        if any(mark in cell.source for mark in wanted):
            exec(cell.source, space)
    os.chdir(folder)  # the lesson moves to a folder of its own
    return space


def test_its_examples_are_in_the_public_formats_and_mean_what_they_say(built):
    leaflets, abstracts = built["own_leaflets"], built["own_abstracts"]
    examples = read_examples(leaflets)
    answers = [line.split("|")[3].strip() for line in built["LEAFLETS"].strip().splitlines()]
    assert [one["responses"] for one in examples] == [[answer] for answer in answers]
    assert all(one["entity"] and one["topic"] and one["prompt"].startswith(one["entity"]) for one in examples)
    assert not any(is_short_answer(one) for one in examples), "replies, not short answers"
    examples = read_examples(abstracts)
    assert {one["responses"][one["label"]] for one in examples} == {"yes", "no", "maybe"}
    assert all(one["long_answer"] and one["context"] and one["prompt"].endswith("?") for one in examples)


def test_the_one_line_names_free_models_and_the_small_one_is_the_default(book, built):
    assert built["MODEL"] == "tiny-qwen3" and not built["REAL"]
    line = next(cell.source for cell in cells(book, "code") if cell.source.startswith("MODEL = "))
    assert '"Qwen/Qwen3-0.6B"' in line.splitlines()[0] and '"smollm2"' in line.splitlines()[0]


def test_without_the_data_or_the_model_the_lesson_says_so_and_continues(book, built, tmp_path, capsys):
    assert built["can_load"]("tiny") and capsys.readouterr().out == ""
    for missing in (("tiny", tmp_path / "medquad.jsonl"), (str(tmp_path / "no-model"),)):
        assert not built["can_load"](*missing)
        printed = capsys.readouterr().out
        assert "is skipped, because" in printed and "continues with tiny-qwen3" in printed
    cell = next(cell.source for cell in cells(book, "code") if cell.source.startswith("MODEL = "))
    space = dict(built, here=tmp_path)
    exec(cell.replace('MODEL = "tiny-qwen3"', 'MODEL = "tiny"', 1), space)
    assert space["MODEL"] == "tiny-qwen3" and not space["REAL"]


def test_the_small_tokenizer_closes_turns_as_the_template_says(built):
    tokenizer = built["small_tokenizer"]([built["LEAFLETS"], built["ABSTRACTS"]])
    example = read_examples(built["own_leaflets"])[0]
    one = Encoder(tokenizer)(example)
    assert tokenizer.decode([target for _, _, target, _ in one.tokens]) == example["responses"][0] + "<|im_end|>"
    assert one.sequences[0][-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("name", ["Qwen3-0.6B", "Qwen3-1.7B", "Qwen3-4B"])
def test_the_budget_counts_weights_as_the_package_does(built, name):
    from transformers import Qwen3Config

    hidden, layers, mlp, heads, kv, width, vocabulary, matrices = MODELS[name]
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
    parts = built["budget"](config, tokens=0, supervised=0)
    fixed = sum(
        parts[part] for part in ("weights, NF4", "embeddings and head", "two adapters", "gradient, AdamW", "copies")
    )
    assert fixed == pytest.approx(estimate(MODELS[name], 2, tokens=0) - 0.7 * 2**30, rel=0.01)
    assert parts["activations"] == parts["logits of a chunk"] == 0


def test_the_ledger_counts_what_lives_and_the_peak(built):
    given = torch.ones(500)
    with built["Ledger"]() as books:
        given.view(5, 100).add_(1)  # neither a view nor work in place makes anything
        assert books.live == books.peak == 0
        made = [given * 2 for _ in range(3)]
        del made[0]
        _ = given.sum()
    assert books.peak == 3 * 2000 and 2 * 2000 <= books.live <= 2 * 2000 + 4


def test_the_loss_takes_no_more_than_the_budget_says(built):
    """Up to six arrays of its tokens' logits."""
    hidden = torch.randn(300, 8, requires_grad=True)
    teacher, head = torch.randn(300, 8), torch.randn(4096, 8)
    with built["Ledger"]() as books:
        token_kl(hidden, teacher, head).sum().backward()
    assert 3 < books.peak / (4 * 300 * 4096) < 6.2 and chunk_size(4096, 2) >= 300


def test_nothing_is_sent_without_a_name_and_a_token(built, tmp_path):
    """With both it would go online, which tests forbid: so it must not have tried."""
    assert built["PUSH_TO"] == ""
    assert "PUSH_TO is empty" in built["share"](tmp_path, "", "a-token")
    assert "no token" in built["share"](tmp_path, "someone/model", None)


def test_a_token_is_read_from_colab_first_then_from_the_environment(built, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_from_environment")
    assert built["hub_token"]() == "hf_from_environment"
    colab = types.ModuleType("google.colab")
    colab.userdata = types.SimpleNamespace(get={"HF_TOKEN": "hf_from_colab"}.get)
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
    assert built["hub_token"]() == "hf_from_colab"

    def times_out(name):
        raise TimeoutError("outside of its page")

    colab.userdata.get = times_out
    assert built["hub_token"]() == "hf_from_environment"


def test_figures_that_were_not_measured_are_marked_as_predicted(book):
    assert book.metadata["lesson"]["predicted"] == ["t4"]
    assert "nobody has measured them" in " ".join(" ".join(cell.source for cell in cells(book, "markdown")).split())


def test_the_stored_outputs_show_the_budget_holding():
    stored = "\n".join(output.get("text", "") for cell in cells(notebook(SOURCE), "code") for output in cell.outputs)
    for line in (
        "weights within 2 %: True",
        "embeddings and adapters exactly: True",
        "both within 5 %: True",
        "within 25 %: True",
        "merged weights answer as the run does: True",
        "PUSH_TO is empty",
    ):
        assert line in stored, line


def test_what_the_lesson_says_about_the_complete_run_is_in_the_record(book):
    record = load_recorded(LESSON_10)
    base, plain, icft = (record["scores"][name] for name in ("base", "qlora", "icft"))
    said = " ".join(" ".join(cell.source for cell in cells(book, "markdown")).split())
    assert base["medquad"]["nll"] > icft["medquad"]["nll"] > plain["medquad"]["nll"], "plain LoRA a little more"
    longer = record["test"]["over_reply_limit"] / record["test"]["n"]["medquad"]
    assert longer == pytest.approx(1 / 3, abs=0.05), "a third of the references"
    assert plain["pubmedqa"]["answered"]["yes"] == 50 == record["test"]["n"]["pubmedqa"]
    right = {name: sum(one["pubmedqa"]["items"].values()) for name, one in record["scores"].items()}
    assert right["qlora"] == max(record["test"]["answers"].values()) == 2 * right["base"]
    assert f"its {right['qlora'] / 50:.2f} **is** the majority baseline" in said
    assert right["icft"] == right["base"] + 4 and right["icft"] < right["qlora"] - 10
    labels = record["weak_labels"]
    assert (labels["n"], labels["labels"]["yes"], labels["labels"]["maybe"]) == (150, 115, 0)
    assert f"{labels['accuracy']:.0%}" == "71%"
    lost, retained = (record["retention"][name] for name in ("qlora", "icft"))
    assert 1 - lost["value"] == pytest.approx(0.25, abs=0.05) and lost["high"] < 1 <= retained["value"]
    assert f"its interval begins at {retained['low']:.2f}" in said
    assert sum(stage["steps"] for stage in record["runs"]["qlora"]["stages"]) == 12
    words = {name: chat["words"] for name, chat in record["chat"].items()}
    assert words["qlora"] < 0.5 * words["base"] < 0.8 * words["icft"]
    assert all(sum(one["suites"]["openbookqa"]) / NUM_QUESTIONS < 0.25 for one in record["scores"].values())


def test_what_the_lesson_says_about_changes_is_in_the_record():
    record = load_recorded(LESSON_10)
    plain, icft = (score_changes(record, name) for name in ("qlora", "icft"))
    assert [name for name, one in plain.items() if one.low > 0 or one.high < 0] == ["pubmedqa"]
    assert [name for name, one in icft.items() if one.low > 0 or one.high < 0] == ["medquad"]
    assert 0 < icft["medquad"].low < 0.005, "hardly excludes zero"


def test_the_exercises_accept_their_solutions_and_reject_wrong_ones(book):
    options = "def right_options(logps, labels):\n    "
    wrong = [
        [
            options + "return [int(torch.stack([k.mean() for k in q]).argmax()) == l for q, l in zip(logps, labels)]",
            options + "return [int(torch.stack([k[0] for k in q]).argmax()) == l for q, l in zip(logps, labels)]",
            options + "return [int(torch.stack([k.sum() for k in q]).argmax()) for q in logps]",
        ],
        [
            "def micro_batches(tokens, fixed, per_token, usable): return 2",
            "def micro_batches(tokens, fixed, per_token, usable):\n"
            "    return tokens // max(1, int((usable - fixed) / per_token)) + 1",
            "def micro_batches(tokens, fixed, per_token, usable):\n"
            "    return -(-tokens // max(1, int(usable / per_token)))",
            "def micro_batches(tokens, fixed, per_token, usable):\n"
            "    return None if fixed >= usable else -(-tokens // max(1, int((usable - fixed) / per_token)))",
        ],
        [
            "def questions(half): return int((1.96 / half) ** 2 / 4)",
            "def questions(half): return 385",
            "def questions(half): return round((1.96 / half) ** 2)",
        ],
    ]
    space = dict(read_examples=read_examples, ICFTError=ICFTError, torch=torch)
    for number in range(len(wrong)):
        check_exercise(book, number, wrong, space)


@pytest.mark.parametrize("solved", [False, True])
def test_the_learners_function_replaces_the_packages_and_gives_the_same_number(book, solved):
    stub, solution = next(pair for pair in exercises(book) if "def right_options" in pair[0])
    use = next(cell.source for cell in cells(book, "code") if "answers = right_options(" in cell.source)
    traced = solution.replace("\n", "\n    calls.append(1)\n", 1)
    logps = [[torch.tensor([-1.0]), torch.tensor([-0.1, -0.2])], [torch.tensor([-0.5]), torch.tensor([-0.6])]]
    for items, same in (({"q": 1, "r": 1}, solved), ({"q": 0, "r": 1}, True)):  # the first option is right in both
        calls = []
        space = dict(torch=torch, calls=calls, logps=logps, labels=[0, 0], by_package=1,
                     live={"scores": {"icft": {"pubmedqa": {"items": items}}}})  # fmt: skip
        printed = said(f"{solve(stub, traced) if solved else stub}\ncalls.clear()\n{use}", space)
        assert bool(calls) == solved
        assert f"with your function or the package's: {same}" in printed


def test_its_size():
    stored = notebook(SOURCE)
    code = sorted(len(cell.source.splitlines()) for cell in cells(stored, "code"))
    assert len(stored.cells) <= 90 and code[len(code) // 2] <= 10 and code[int(0.9 * len(code))] <= 25
    assert len(checked(stored)) >= len(code) / 2
    assert not any("figure(" in cell.source.lower() or "subplots" in cell.source for cell in cells(stored, "code"))


def test_the_diagram_has_the_seven_parts():
    texts = " ".join(text.get_text() for text in draw().axes[0].texts)
    for part in ("NF4", "embeddings", "adapters", "gradient", "copies", "activations", "logits"):
        assert part in texts and part in draw.__doc__, part


def test_the_bars_of_the_figure_have_the_sizes_of_the_table():
    table = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]}, index=["weights", "activations"])
    axes = memory_bars(table, 10.0, "title").axes[0]
    widths = [[bar.get_width() for bar in group] for group in axes.containers]
    starts = [[bar.get_x() for bar in group] for group in axes.containers]
    assert widths == [[1, 3], [2, 4]] and starts == [[0, 0], [1, 3]]
    assert axes.lines[0].get_xdata()[0] == 10
