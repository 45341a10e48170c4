"""Talk to models: in a terminal, and what the notebook's panels share with it."""

import json
import shutil
import threading
from pathlib import Path

from transformers import StoppingCriteria, StoppingCriteriaList, TextStreamer, TrainerCallback

from icft_lite.modeling.adapters import save_adapter, use_adapter
from icft_lite.modeling.encoding import TooLong
from icft_lite.modeling.generation import generate_reply
from icft_lite.runs import load_run


class ChatSession:
    """Asks one model, question after question; each stands alone, and has a seed of its own."""

    def __init__(self, model, tokenizer):
        self.model, self.tokenizer, self.turn = model, tokenizer, 0

    def reply(self, question, temperature=0.0, max_new_tokens=64, stop=None, told=None):
        """The model's reply (greedy at temperature 0), or in brackets why there is none: it is too long.

        stop: a threading.Event; once it is set, no token follows but the one under way, and what is written so far
        is the reply. told(text): called with all the text so far, word by word."""
        more = {}
        if stop is not None:
            more["stopping_criteria"] = StoppingCriteriaList([_Stop(stop)])
        if told is not None:
            more["streamer"] = _Streamer(self.tokenizer, told)
        try:
            return generate_reply(
                self.model,
                self.tokenizer,
                question,
                temperature=temperature,
                seed=self.turn,
                max_new_tokens=max_new_tokens,
                **more,
            )
        except TooLong as error:
            return f"({error})"
        finally:
            self.turn += 1


class _Stop(StoppingCriteria):
    def __init__(self, event):
        self.event = event

    def __call__(self, input_ids, scores, **kwargs):
        return input_ids.new_full((len(input_ids),), self.event.is_set(), dtype=bool)


class _Streamer(TextStreamer):
    def __init__(self, tokenizer, told):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.told, self.text = told, ""

    def on_finalized_text(self, text, stream_end=False):
        self.text += text
        self.told(self.text)


def chat(folder, temperature=0.0, adapter="adapter", read=input, write=print):
    """Answer questions until an empty line or the end of input. Each question stands alone.

    `read` and `write` are the terminal's by default. Raises ICFTError if `folder` holds no finished run."""
    talk = ChatSession(*load_run(folder, adapter))
    write("Ask; an empty line ends it. Teaching material, not medical advice.")
    while True:
        try:
            question = read("> ").strip()
        except EOFError:
            return
        if not question:
            return
        write(talk.reply(question, temperature))


class SaveStageAdapters(TrainerCallback):
    """For `train_icft`: keeps the slow adapter of every stage's end in the run's folder, as `adapter_stage1`, …"""

    def on_stage_end(self, run, record, **_):
        number = [run.stage_name(n) for n in range(1, len(run.stages) + 1)].index(record["name"]) + 1
        half, whole = run.state / "kept", run.out / f"adapter_stage{number}"
        for folder in (half, whole):
            shutil.rmtree(folder, ignore_errors=True)
        save_adapter(run.model, "slow", half)
        half.replace(whole)


def run_models(folder, **settings):
    """All that a run's folder holds, to be asked side by side: {name: callable(question) -> str}.

    "base", "after NAME" for each earlier stage whose adapter was kept (see KeepStages), "slow" and "fast", as they
    ended. They share one base in memory, and a lock, for only one adapter can be switched on at a time.
    settings: as of `evaluate.generate`. Raises ICFTError if `folder` holds no finished run."""
    folder, lock = Path(folder), threading.Lock()
    model, tokenizer = load_run(folder)
    adapters = {"base": None}
    for number, stage in enumerate(json.loads((folder / "report.json").read_text())["stages"][:-1], 1):
        if (folder / f"adapter_stage{number}").exists():
            adapters[f"after {stage['name']}"] = f"adapter_stage{number}"
    adapters |= {"slow": "default", "fast": "adapter_fast"}
    for adapter in adapters.values():
        if adapter not in (None, "default"):
            model.load_adapter(str(folder / adapter), adapter)

    def under(adapter):
        def answer(question):
            with lock, use_adapter(model, adapter):
                return generate_reply(model, tokenizer, question, **settings)

        return answer

    return {name: under(adapter) for name, adapter in adapters.items()}
