"""Reports, comparisons and model cards: what they show, and that files are written atomically."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib.text import Text

from icft_lite.config import ICFTConfig
from icft_lite.errors import ICFTError
from icft_lite.reporting import render
from icft_lite.reporting.build import transfer_metrics
from icft_lite.reporting.figures import comparison_figure, forgetting_figure, losses_figure
from icft_lite.reporting.model_card import model_card
from icft_lite.reporting.render import print_table, write_comparison, write_report
from icft_lite.utils.io import to_plain, write_json, write_text
from icft_lite.widgets.progress import progress_from_report


def example():
    by_topic = {"capitals": {"value": 0.8515, "n": 200, "kind": "fact"}}
    score = {"metric": "exact_match", "n": 620, "by_topic": by_topic}
    pairs = {"metric": "pairwise accuracy", "value": 0.8812, "n": 150}
    losses = {
        "step": list(range(1, 31)),
        "stage": [1] * 10 + [2] * 10 + [3] * 10,
        "total": [1.0] * 30,
        "consistency": [0.1] * 30,
        "task": [None, 0.5] * 15,
        "fine_tune": np.linspace(4, 1, 30),
    }
    return {
        "method": "icft",
        "seed": 0,
        "base": "tiny",
        "retention": 0.9387,
        "bwt": -0.0263,
        "fwt": 0.0312,
        "forgetting": 0.0271,
        "versions": {"torch": "2"},
        "config": {"model": "tiny", "optim": {"learning_rate": 0.0015}, "curriculum": {"signals": ["loss"]}},
        "runtime": {"micro_batches": 8},
        "runtime_changes": [
            {"after_stage": 1, "step": 7, "setting": "teacher_memory_mib", "before": 0.00012, "after": None}
        ],
        "scores": {
            "before": {"general": {"qa": {**score, "value": 0.9312, "option_accuracy": 0.97}}},
            "after": {
                "general": {"qa": {**score, "value": 0.8741, "option_accuracy": 0.9532, "option_chance": 0.25}},
                "medical": {"preference": pairs},
            },
        },
        "accuracy_matrix": [
            [0.93, 0.03, 0.06, np.nan],
            [0.91, 0.95, 0.08, 0.1],
            [0.88, 0.94, 0.93, 0.12],
            [0.87, 0.931, 0.92, 0.88],
        ],
        "data": {
            "counts": {"trusted": 601},
            "truncated_contexts": 3,
            "dropped_unvoted": 41,
            "weak": {
                "lfs": [{"name": "lf_stem", "coverage": 0.617, "accuracy": 0.913}],
                "label_model": "dawid_skene",
                "ece": 0.0412,
            },
        },
        "stages": [
            {
                "name": name,
                "steps": 10,
                "new_examples": 500,
                "promoted": 43,
                "evicted": 38,
                "memory_examples": 1600,
                "teacher_share": {"memory": 0.4123, "base": 0.5877},
                "tokens": 20000,
                "seconds": 40.1,
                "consolidation": {
                    "alpha": 0.8,
                    "origin": "base",
                    "refused": False,
                    "svd_residual": 0.0123,
                    "candidates": [
                        {
                            "alpha": 0.8,
                            "origin": "base",
                            "general": 0.8765,
                            "medical": 0.7654,
                            "kl": 0.0345,
                            "chat_retention": 0.9511,
                        }
                    ],
                },
            }
            for name in ("easy", "medium", "hard")
        ],
        "losses": losses,
        "examples": {"trusted": 7013},
        "gradient_norms": {"task": [0.8, 0.4]},
        "cost": {
            "seconds": 131.2,
            "tokens": np.int64(612345),
            "peak_memory_bytes": 913 * 2**20,
            "trainable_parameters": 294912,
        },
        "samples": [
            {
                "prompt": "What does\nnephritis | mean?",
                "reference": "inflammation",
                "base": "<script>x</script> `a` **b** [c](d)",
                "after": "inflammation\x1b[31m",
            }
        ]
        * 4,
    }


def comparison():
    def method(x, y):
        x, y = ({"mean": v, "min": v - 0.011, "max": v + 0.012, "values": [v - 0.011, v, v + 0.012]} for v in (x, y))
        costs = [{"tokens": 600, "seconds": 100}, {"tokens": 800, "seconds": 140}]
        return {"retention": x, "medical": y, "general": x, "runs": [{"cost": cost} for cost in costs]}

    return {
        "seeds": [0, 1, 2],
        "base": {"medical": 0.131, "general": 0.93},
        "notes": ["majority vote: no effect"],
        "against": {
            "qlora": {
                "medical": {"difference": -0.01, "low": -0.032, "high": 0.013, "p": 0.4},
                "general": {"difference": 0.71, "low": 0.68, "high": 0.74, "p": 0.001},
            }
        },
        "methods": {
            "icft": method(0.94, 0.92),
            "qlora": method(0.21, 0.93),
            "gold": method(0.93, 0.95),
            "mine|own": {"medical": 0.5},
        },
    }


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_every_value_is_shown(tmp_path):
    given = example()
    write_report(given, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    for shown in (
        "0.939",
        "-0.026",
        "0.031",
        "0.027",
        "0.931",
        "0.874",
        "-0.057",
        "0.852",
        "capitals (fact)",
        "0.953",
        "chance 0.250",
        "0.881",
        "601",
        "41",
        "0.617",
        "0.913",
        "0.041",
        "dawid",
        "43",
        "0.412",
        "0.588",
        "0.012",
        "0.876",
        "0.765",
        "7,013",
        "131 s",
        "612,345",
        "913 MiB",
        "294,912",
        "0.0015",
        "after medium",
        "0.600",
        "| optim.learning\\_rate | 0.0015 |",
        '| curriculum.signals | \\["loss"\\] |',
        "| micro\\_batches | 8 |",
        "| 1 | 7 | teacher\\_memory\\_mib | 0.00012 | null |",
        "| easy | base | 0.800 | 0.876 | – | 0.951 | 0.035 | 0.765 | ← |",
        "| examples with a truncated context | 3 |",
        "| easy | 10 | 500 | 43 | 38 | 1,600 | 0.412 | 0.588 | 0.800 | no |",
    ):
        assert shown in text, shown
    stored = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert stored["retention"] == given["retention"] and stored["cost"]["tokens"] == 612345
    assert stored["accuracy_matrix"][0] == [0.93, 0.03, 0.06, None], "NaN is null in JSON"
    assert stored["losses"]["fine_tune"] == given["losses"]["fine_tune"].tolist()
    for name in ("losses.png", "forgetting.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG") and f"({name})" in text
    assert names_in(tmp_path) == ["forgetting.png", "losses.png", "report.json", "report.md"]


def test_model_text_cannot_break_the_page(tmp_path):
    write_report(example(), tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if "nephritis" in line)
    assert "What does nephritis \\| mean?" in row and "<script>" not in text and "\x1b" not in text
    assert "\\`a\\` \\*\\*b\\*\\* \\[c\\](d)" in row
    assert row.replace("\\|", "").count("|") == 5 and text.count("nephritis") == 3


@pytest.mark.parametrize("key", list(example()))
def test_any_part_may_be_missing(tmp_path, monkeypatch, key):
    monkeypatch.setattr(render, "png", lambda figure: b"")  # this test builds the figures; drawing them is slow
    partial = {k: v for k, v in example().items() if k != key}
    write_report(partial, tmp_path)
    print_table(partial, file=io.StringIO())
    assert model_card(partial)


def test_empty_report(tmp_path):
    write_report({}, tmp_path)
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == "# Run\n"


def test_figures_plot_the_values():
    report = example()
    lines = [line.get_ydata() for line in forgetting_figure(report).axes[0].get_lines()]
    lines = [line for line in lines if len(line) == 4]
    assert any(np.allclose(line, [0.93, 0.91, 0.88, 0.87]) for line in lines)
    mean = [0.045, (0.95 + 0.08 + 0.1) / 3, (0.94 + 0.93 + 0.12) / 3, (0.931 + 0.92 + 0.88) / 3]
    assert any(np.allclose(line, mean) for line in lines)
    panels = losses_figure(report).axes
    titles = [axis.get_title(loc="left").split(":")[0] for axis in panels]
    assert titles == ["L_fine-tune", "L_task", "L_consistency"]
    drawn = np.concatenate([line.get_ydata() for line in panels[0].get_lines()[:6:2]])
    assert np.allclose(drawn, report["losses"]["fine_tune"]), "one line per stage"
    points = [c.get_offsets().data.tolist() for c in comparison_figure(comparison()).axes[0].collections]
    assert [[0.94, 0.92]] in points and [[1.0, 0.131]] in points


def test_comparison(tmp_path):
    write_comparison(comparison(), tmp_path)
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert "| ICFT | 0.920 \\[0.909–0.932\\] | 0.940 \\[0.929–0.952\\] |" in text and "| 700 | 120 |" in text
    assert "mine\\|own" in text and "base, not fine-tuned | 0.131 | 1.000 | 0.930" in text and "no effect" in text
    assert "plain QLoRA, medical | -0.010 \\[-0.032, +0.013\\] | 0.400 | no difference measured" in text
    assert json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8")) == comparison()
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
    write_comparison({"methods": {}}, tmp_path)


def test_print_table():
    out = io.StringIO()
    print_table(example(), file=out)
    print_table(comparison(), file=out)
    for shown in ("0.939", "0.874", "131 s", "What does nephritis | mean?", "0.920 [0.909–0.932]", "plain QLoRA"):
        assert shown in out.getvalue()
    assert "\x1b" not in out.getvalue() and "capitals" not in out.getvalue()


def words(figure):
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def test_without_4_bits_every_table_says_lora(tmp_path):
    """A base in full precision: LoRA. In 4 bits, as by default: QLoRA."""
    for settings, wanted in (({}, "QLoRA"), ({"adapter.load_in_4bit": False}, "LoRA")):
        shown = []
        report = {**example(), "method": "qlora", "config": ICFTConfig.from_dict(settings).to_dict()}
        (tmp_path / "adapter").mkdir(exist_ok=True)
        write_report(report, tmp_path)
        shown += [(tmp_path / name).read_text(encoding="utf-8") for name in ("report.md", "adapter/README.md")]
        shown += [
            words(losses_figure(report)),
            words(forgetting_figure(report)),
            progress_from_report(to_plain(report)).title,
        ]
        samples = [dict(prompt="p", qlora="reply")]
        by_model = dict(four_bit=wanted == "QLoRA")
        for one in (dict(settings=settings), dict(method_settings={"qlora": settings}), by_model):
            compared = {**comparison(), "samples": samples, **one}
            write_comparison(compared, tmp_path)
            out = io.StringIO()
            print_table(compared, file=out)
            shown += [(tmp_path / "comparison.md").read_text(encoding="utf-8"), words(comparison_figure(compared))]
            shown += [out.getvalue()]
        for text in shown:
            assert f"plain {wanted}" in text and text.count("plain ") == text.count(f"plain {wanted}")
    only_other = {**comparison(), "method_settings": {"icft": settings}}
    assert "plain QLoRA" in words(comparison_figure(only_other)), "the settings of another method"


def test_the_hash_of_the_base_is_in_the_report_and_the_card(tmp_path):
    (tmp_path / "adapter").mkdir()
    write_report({**example(), "base": "smollm2", "base_hash": "5155f6"}, tmp_path)
    assert "| base (hash) | 5155f6 |" in (tmp_path / "report.md").read_text(encoding="utf-8")
    card = (tmp_path / "adapter" / "README.md").read_text(encoding="utf-8")
    assert "SmolLM2-135M-Instruct with its Q4_1 weights" in card and "whose hash is `5155f6`." in card
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "apache-2.0" and "base_model" not in front


def test_model_card(tmp_path):
    (tmp_path / "adapter").mkdir()
    write_report({**example(), "base": "org/model-0.6B"}, tmp_path)
    card = (tmp_path / "adapter" / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---")[1])
    assert front["base_model"] == "org/model-0.6B" and front["library_name"] == "peft"
    assert front["license"] == "other" and "medical" in front["tags"] and "not medical advice" in card
    assert "\n# LoRA adapter for org/model-0.6B, method ICFT\n" in card and "{{" not in card
    sections = [line for line in card.splitlines() if line.startswith("## ")]
    assert sections == ["## Scores", "## Retention", "## Accuracy matrix"]
    assert "| general | qa | all | exact\\_match | 620 | 0.931 | 0.874 | -0.057 |" in card and card.endswith(" |\n")
    local = model_card({"base": "/home/someone/secret/my_model"})
    assert "someone" not in local and "base_model" not in local
    assert "PeftModel" in local and "AutoModel" not in local
    whole = model_card({"base": "tiny", "base_hash": "5155f6"}, merged=True)
    assert "# Fine-tuned weights of tiny, method" in whole and "AutoModelForCausalLM" in whole and "{%" not in whole
    assert yaml.safe_load(whole.split("---")[1])["library_name"] == "transformers" and "hash `5155f6`" in whole
    assert "for my\\_model, method" in local and "# base: my_model\n" in local, "markdown is escaped, code is not"
    assert yaml.safe_load(model_card({"base": "tiny"}).split("---")[1])["license"] == "apache-2.0"


def test_rendering_imports_no_torch():
    """`icft-lite compare` reads the runs of other processes; torch would take seconds to import."""
    code = "import sys, icft_lite.reporting.render; print([n for n in ('torch', 'transformers') if n in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(Path(render.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("step", ["open", "fsync", "replace"])
def test_failed_write_keeps_old_file(tmp_path, monkeypatch, step):
    path = tmp_path / "report.json"
    write_json(path, {"old": 1})

    def fail(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pathlib.Path.open" if step == "open" else f"os.{step}", fail)
    with pytest.raises(ICFTError) as error:
        write_json(path, {"new": 2})
    monkeypatch.undo()
    message = str(error.value)
    assert "No space left" in message and str(path) in message and "\n" not in message
    assert json.loads(path.read_text()) == {"old": 1} and names_in(tmp_path) == ["report.json"]


def test_interrupted_write_keeps_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def interrupt(_descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "new")
    assert path.read_text() == "old" and names_in(tmp_path) == ["a.txt"]


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(ICFTError, match="cannot be written"):
        write_report(example(), tmp_path / "out")
    assert (tmp_path / "out").read_text() == "in the way"


def test_value_that_json_cannot_hold_keeps_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": [1, 2.5, None], "s": "[\n1 ,  2]", "p": tmp_path, "e": [], "u": "α"})
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "x": [1, 2.5, None],
        "s": "[\n1 ,  2]",
        "p": str(tmp_path),
        "e": [],
        "u": "α",
    }
    assert '"x": [1, 2.5, null]' in path.read_text(encoding="utf-8")
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})
    assert json.loads(path.read_text(encoding="utf-8"))["u"] == "α"


def test_a_relative_folder_is_no_hub_name(tmp_path, monkeypatch):
    (tmp_path / "mods" / "foo").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "base_model: mods/foo" not in model_card({"base": "mods/foo"})
    assert "base_model: mods/bar" in model_card({"base": "mods/bar"})


def test_both_adapters_get_a_card(tmp_path):
    for name in ("adapter", "adapter_fast"):
        (tmp_path / name).mkdir()
    write_report({"base": "tiny"}, tmp_path)
    assert all(
        "not medical advice" in (tmp_path / name / "README.md").read_text() for name in ("adapter", "adapter_fast")
    )


def test_transfer_is_measured_only_where_stages_are_levels_in_their_order():
    matrix = [[0.9, 0.1, 0.2, 0.3], [0.8, 0.7, 0.2, 0.3], [0.8, 0.6, 0.7, 0.3], [0.8, 0.5, 0.6, 0.7]]
    found = transfer_metrics(matrix, ["easy", "medium", "hard"])
    assert found["forgetting"] == pytest.approx((0.1 + 0.2 + 0.1) / 3)
    assert transfer_metrics(matrix, ["hard", "medium", "easy"]) == {}, "stage 1 taught the last column"
    assert transfer_metrics(matrix, ["random 1", "random 2", "random 3"]) == {}


def test_what_fails_in_a_report_is_listed_and_costs_nothing_else(tmp_path, monkeypatch):
    def fails(*args):
        raise ValueError("no figure today")

    for name in ("forgetting_figure", "model_card"):
        monkeypatch.setattr(render, name, fails)
    (tmp_path / "adapter").mkdir()
    write_report(example(), tmp_path)
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert [line.partition(":")[0] for line in report["problems"]] == ["forgetting.png", "model card"]
    assert all("no figure today" in line for line in report["problems"])
    assert "## Losses" in (tmp_path / "report.md").read_text(encoding="utf-8") and (tmp_path / "losses.png").exists()
