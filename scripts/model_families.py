"""Write the table of model families in docs/models.md.

Run `python scripts/model_families.py` (about five minutes) after an update of transformers, PEFT or bitsandbytes. For
each family it builds a small random model, trains it for a few steps, and compares it with plain transformers.
`python scripts/model_families.py NAME …` prints the rows of these families only.
"""

import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from unittest import mock

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", MPLBACKEND="Agg")
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import torch  # noqa: E402
from small_model import FAMILIES, save_family  # noqa: E402
from small_run import small_bundle  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    TrainerCallback,
)
from transformers.utils import logging  # noqa: E402

from icft_lite.data.bundle import DataBundle  # noqa: E402
from icft_lite.errors import ICFTError  # noqa: E402
from icft_lite.finished_runs import evaluate_run, export, load_run  # noqa: E402
from icft_lite.modeling.adapters import add_adapters  # noqa: E402
from icft_lite.modeling.base import load_base, load_tokenizer  # noqa: E402
from icft_lite.modeling.encoding import Encoder  # noqa: E402
from icft_lite.modeling.forward import head_weight, hidden_states  # noqa: E402
from icft_lite.modeling.generation import generate_reply  # noqa: E402
from icft_lite.modeling.packing import join_batch  # noqa: E402
from icft_lite.modeling.self_check import check_model  # noqa: E402
from icft_lite.training import loop  # noqa: E402
from icft_lite.utils.io import write_json  # noqa: E402

DOCS = ROOT / "docs" / "models.md"
MARKS = ("<!-- families: begin -->", "<!-- families: end -->")
COLUMNS = ["4 bits", "full precision", "mask", "packing", "resume", "evaluate", "chat", "export --merge", "reload"]
LIMIT = 1e-5
"""Largest difference that counts as agreement, relative to the largest value of plain transformers."""
SETTINGS = {
    "optim.max_steps": 6,
    "optim.batch_size": 4,
    "adapter.rank": 2,
    "adapter.alpha": 4,
    "long_term.self_prompts": 0,
    "long_term.size": 20,
    "consolidation.enabled": False,
    "runtime.save_steps": 1,
}


class Stop(TrainerCallback):
    """Interrupt a run after two steps."""

    def on_step_end(self, args: object, state: object, control: object, **kwargs: object) -> None:
        """Raise KeyboardInterrupt."""
        if state.global_step == 2:  # type: ignore[attr-defined]
            raise KeyboardInterrupt


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference, relative to the largest value of `expected`."""
    return float((found - expected).abs().max() / expected.abs().max())


def cell(error: float) -> str:
    """Return the text of a cell for a difference to plain transformers."""
    return f"works (≤ {LIMIT:.0e})" if error <= LIMIT else f"differs by {error:.1e}"


@torch.no_grad()
def logits(model: PreTrainedModel, sequences: list[list[int]]) -> list[torch.Tensor]:
    """Return plain logits of sequences, one by one."""
    return [model(input_ids=torch.tensor([ids])).logits[0] for ids in sequences]


@torch.no_grad()
def batch_logits(model: PreTrainedModel, encoded: list, pack: bool) -> torch.Tensor:
    """Return the logits at the supervised tokens of one batch, as icft_lite computes them."""
    batch = join_batch(encoded, 0, pack=pack)
    return hidden_states(model, batch)[batch["row"], batch["position"]] @ head_weight(model).T


def check_loading(folder: str, in_4_bits: bool) -> str:
    """Compare a loaded base with plain transformers; "refused: reason" if it is not loaded."""
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype="float32"
    )
    try:
        model, _ = load_base(folder, in_4_bits)
        add_adapters(model, 2, 4)
    except ICFTError as error:
        return f"refused: {reason(error)}"
    plain = AutoModelForCausalLM.from_pretrained(folder, quantization_config=quantization if in_4_bits else None)
    plain = plain.dequantize() if in_4_bits else plain  # some CPUs compute 4-bit layers in bfloat16
    ids = [list(range(5, 65))]
    return cell(difference(logits(model, ids)[0], logits(plain.eval(), ids)[0]))


def reason(error: ICFTError) -> str:
    """Return what an error says about the family, without the model's folder and the advice."""
    return str(error).removeprefix("model: ").split("; ")[0]


def check_masks(folder: str, in_4_bits: bool, examples: list[dict]) -> Iterator[str]:
    """Yield the cells `mask` and `packing`."""
    model, tokenizer = load_base(folder, in_4_bits)
    found = check_model(model, tokenizer)
    questions = [example for example in examples if example["task"] == "question"][:6]
    plain = [Encoder(tokenizer, share_prompts=False)(question) for question in questions]
    alone = [logits(model, one.sequences) for one in plain]
    expected = torch.cat(
        [sequences[number][position] for one, sequences in zip(plain, alone) for number, position, *_ in one.tokens]
    )
    expected = expected.reshape(-1, len(head_weight(model)))
    shared = [Encoder(tokenizer, share_prompts=found.shared_prompts)(question) for question in questions]
    text = cell(difference(batch_logits(model, shared, False), expected))
    yield text if found.shared_prompts else f"{text}, not shared: {off_because(found.notes, 'shared prompts')}"
    packed = cell(difference(batch_logits(model, plain, True), expected)) if found.packing else ""
    yield packed or f"off: {off_because(found.notes, 'packing')}"


def off_because(notes: Sequence[str], what: str) -> str:
    """Return the reason in the note about a feature, without its number, which depends on the weights."""
    why = next(note for note in notes if f"support {what}" in note).partition("(")[2].partition(")")[0]
    return re.sub("outputs differ by .*", "the outputs of an example would depend on the other examples", why)


def check_run(folder: str, in_4_bits: bool, bundle: DataBundle, out: Path) -> Iterator[str]:
    """Yield the cells from `resume` on."""
    settings = {**SETTINGS, "model": folder, "adapter.load_in_4bit": in_4_bits}
    report = loop.train_icft(settings, out / "run", bundle, progress=False)
    try:
        loop.train_icft(settings, out / "resumed", bundle, progress=False, callbacks=[Stop()])
    except KeyboardInterrupt:
        loop.train_icft(settings, out / "resumed", bundle, progress=False)
    weights = [(out / run / "adapter" / "adapter_model.safetensors").read_bytes() for run in ("run", "resumed")]
    yield "works (same bytes)" if weights[0] == weights[1] else "differs"
    scores = evaluate_run(out / "run", bundle)
    same = all(
        abs(score["value"] - scores[suite][task]["value"]) < 1e-6
        for suite, tasks in report["scores"]["after"].items()
        for task, score in tasks.items()
    )
    yield "works (same scores)" if same else "differs"
    model, tokenizer = load_run(out / "run")
    export(out / "run", out / "merged", merge=True)
    merged = AutoModelForCausalLM.from_pretrained(out / "merged").eval()
    reply = generate_reply(model, tokenizer, "What is 2 plus 3?", max_new_tokens=12)
    yield "works (same reply)" if reply == plain_reply(merged, out / "merged", "What is 2 plus 3?") else "differs"
    ids = [list(range(5, 65))]
    expected = logits(model.merge_and_unload() if not in_4_bits else model, ids)[0]
    yield cell(difference(logits(load_base(str(out / "merged"), False)[0], ids)[0], expected))
    yield cell(difference(logits(merged, ids)[0], expected))


def plain_reply(model: PreTrainedModel, folder: Path, question: str) -> str:
    """Return a greedy reply of 12 tokens with transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    output = model.generate(**prompt, do_sample=False, max_new_tokens=12, eos_token_id=tokenizer.eos_token_id)
    return tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def family_row(name: str, bundle: DataBundle) -> list[str]:
    """Return the cells of a family's row."""
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        folder = save_family(name, out / "base", load_tokenizer("tiny"))
        cells = [check_loading(folder, in_4_bits) for in_4_bits in (True, False)]
        if cells[1].startswith("refused"):
            return cells + ["–"] * (len(COLUMNS) - 2)
        in_4_bits = not cells[0].startswith("refused")
        steps: list[Callable[[], Iterator[str]]] = [
            lambda: check_masks(folder, in_4_bits, list(bundle.general_test) + list(bundle.test)),
            lambda: check_run(folder, in_4_bits, bundle, out),
        ]
        for step in steps:
            cells += step()
        return cells


def render(rows: dict[str, list[str]]) -> str:
    """Return the table in markdown; reasons become footnotes."""
    notes: dict[str, int] = {}
    lines = ["| " + " | ".join(["family", *COLUMNS]) + " |", "|" + " --- |" * (1 + len(COLUMNS))]
    for name, cells in rows.items():
        shown = []
        for text in cells:
            what, colon, why = text.partition(": ")
            shown.append(f"{what} ({notes.setdefault(why, len(notes) + 1)})" if colon else what)
        lines.append("| " + " | ".join([name, *shown]) + " |")
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "bitsandbytes"))
    return "\n".join([*lines, "", *(f"{n}. {why}" for why, n in notes.items()), "", f"Measured with {packages}."])


def make_table(names: list[str]) -> str:
    """Return the table of these families."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    bundle, rows = small_bundle(), {}
    with mock.patch.object(loop, "write_report", write_only_json):  # figures would take most of the time
        for name in names:
            rows[name] = family_row(name, bundle)
            print(name, *rows[name], sep=" | ", flush=True)
    return render(rows)


def write_only_json(report: dict, out: Path, *rest: object) -> None:
    """Write the part of a report that loading, evaluating and exporting read."""
    write_json(out / "report.json", report)


if __name__ == "__main__":
    if sys.argv[1:]:
        print(make_table(sys.argv[1:]))
    else:
        head, rest = DOCS.read_text(encoding="utf-8").split(MARKS[0])
        table = make_table(list(FAMILIES))
        DOCS.write_text(f"{head}{MARKS[0]}\n{table}\n{MARKS[1]}{rest.split(MARKS[1])[1]}", encoding="utf-8")
