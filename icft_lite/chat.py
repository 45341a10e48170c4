"""Chat with models: in a terminal, and the parts that the notebook panels share with it."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TextStreamer,
)

from icft_lite.compat import moved
from icft_lite.errors import ICFTError
from icft_lite.finished_runs import load_run
from icft_lite.modeling.adapters import save_adapter, use_adapter
from icft_lite.modeling.generation import generate_reply
from icft_lite.report_file import read_report
from icft_lite.training.events import RunCallback
from icft_lite.utils.notice import NOTICE

if TYPE_CHECKING:
    from icft_lite.training.prepare import Prepared
    from icft_lite.training.stage import StageResult

MAX_NEW_TOKENS = 512
"""Maximum number of tokens of a reply in a terminal chat, by default."""


class ChatSession:
    """Query one model with one question at a time, without a history. The question's number is the sampling seed."""

    def __init__(self, model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer, self.turn = model, tokenizer, 0

    def reply(
        self,
        question: str,
        temperature: float = 0.0,
        max_new_tokens: int = 64,
        stop: threading.Event | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> str:
        """Return the model's reply, or in parentheses why there is none, such as a question that is too long.

        temperature: 0 decodes greedily. stop: once this event is set, generation ends after the next token, and the
        text so far is the reply. on_text: called with the whole text so far, after every word.
        """
        try:
            return generate_reply(
                self.model,
                self.tokenizer,
                question,
                temperature=temperature,
                seed=self.turn,
                max_new_tokens=max_new_tokens,
                stopping_criteria=StoppingCriteriaList([_StopOnEvent(stop)] if stop else []),
                streamer=_Streamer(self.tokenizer, on_text) if on_text else None,
            )
        except ICFTError as error:
            return f"({error})"
        finally:
            self.turn += 1


class _StopOnEvent(StoppingCriteria):
    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return input_ids.new_full((len(input_ids),), self.event.is_set(), dtype=torch.bool)


class _Streamer(TextStreamer):
    def __init__(self, tokenizer: PreTrainedTokenizerBase, on_text: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.on_text, self.text = on_text, ""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.text += text
        self.on_text(self.text)


def chat(
    folder: Path | str,
    temperature: float = 0.0,
    adapter: str = "adapter",
    max_new_tokens: int = MAX_NEW_TOKENS,
    read: Callable[[str], str] = input,
    write: Callable[[str], object] = print,
) -> None:
    """Answer questions until an empty line or the end of the input. There is no history. NOTICE follows each reply.

    adapter: name of the adapter's folder in the run's folder. max_new_tokens: maximum length of a reply; the number of
    positions of the model limits it too. read and write: by default the terminal. Raises ICFTError if `folder` has no
    finished run.
    """
    session = ChatSession(*load_run(folder, adapter))
    write(f"Ask a question; an empty line ends the chat. This is a {NOTICE}.")
    while True:
        try:
            question = read("> ").strip()
        except EOFError:
            return
        if not question:
            return
        write(f"{session.reply(question, temperature, max_new_tokens)}\n({NOTICE})")


class SaveStageAdapters(RunCallback):
    """A callback of `train_icft` that saves the slow adapter after every stage, as `adapter_stage1`, …, in the run."""

    def on_stage_end(self, prepared: "Prepared", result: "StageResult") -> None:
        """Save the slow adapter of the stage that has ended."""
        number = next(stage.number for stage in prepared.stages if stage.name == result.record["name"])
        temporary, final = prepared.paths.state / "stage_adapter", prepared.paths.out / f"adapter_stage{number}"
        for folder in (temporary, final):
            shutil.rmtree(folder, ignore_errors=True)
        save_adapter(prepared.model, "slow", temporary)
        temporary.replace(final)  # a killed process leaves no incomplete adapter_stage folder


def run_models(folder: Path | str, **kwargs: Any) -> dict[str, Callable[[str], str]]:
    """Return all models of a run, to compare their replies: {name: function from a question to a reply}.

    The names are "base", "after NAME" for each earlier stage whose adapter was saved (`SaveStageAdapters`), and
    "slow" and "fast" for the adapters at the end of the run. The models share one base in memory. They also share a
    lock, because only one adapter can be active at a time. kwargs: passed to `generate_reply`. Raises ICFTError if
    `folder` has no finished run.
    """
    folder, lock = Path(folder), threading.Lock()
    model, tokenizer = load_run(folder)
    adapters: dict[str, str | None] = {"base": None}
    for number, stage in enumerate(read_report(folder)["stages"][:-1], 1):
        if (folder / f"adapter_stage{number}").exists():
            adapters[f"after {stage['name']}"] = f"adapter_stage{number}"
    adapters |= {"slow": "default", "fast": "adapter_fast"}
    for adapter in adapters.values():
        if adapter not in (None, "default"):
            model.load_adapter(str(folder / adapter), adapter)

    def answer_with(adapter: str | None) -> Callable[[str], str]:
        def answer(question: str) -> str:
            with lock, use_adapter(model, adapter):
                return generate_reply(model, tokenizer, question, **kwargs)

        return answer

    return {name: answer_with(adapter) for name, adapter in adapters.items()}


def __getattr__(name: str) -> Any:  # names of version 0.1
    return moved("chat", name)
