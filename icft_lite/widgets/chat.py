"""Chat with one model: temperature, maximum number of new tokens, and a Stop button."""

import threading
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets
from IPython.display import HTML
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from icft_lite.chat import ChatSession
from icft_lite.utils.notice import NOTICE
from icft_lite.widgets.table import REPLY_WIDTH, html_table

MAX_SHOWN = 10
"""Number of questions that the panel shows, the newest first."""

Turn = tuple[str, str, str]
"""(question, reply, decoding method)."""


def chat_table(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[str],
    temperature: float = 0.0,
    max_new_tokens: int = 64,
) -> HTML:
    """Return the panel's table for a list of questions, for places where widgets do not run."""
    session = ChatSession(model, tokenizer)
    turns = [(text, session.reply(text, temperature, max_new_tokens), _decoding(temperature)) for text in questions]
    return HTML(_table(turns))


class ChatPanel(widgets.VBox):
    """A field (Enter sends), the buttons Send and Stop, and the replies, which grow while the model writes.

    Each question is independent of the earlier ones. The model generates in its own thread, so that the page stays
    responsive, and Stop takes effect after the next token. Do not use the same model elsewhere meanwhile.

    history: list of (question, reply, decoding), the newest first. The children are (temperature, max_new_tokens),
    (question, send_button, stop_button), replies.
    """

    def __init__(
        self, model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int = 64
    ) -> None:
        self.session, self.generating = ChatSession(model, tokenizer), False
        self.history: list[Turn] = []
        self.thread: threading.Thread | None = None
        self.stop_event = threading.Event()
        self.lock = threading.Lock()  # JupyterLab may run the callbacks of two controls in two threads
        style = {"description_width": "initial"}  # labels are not cut off
        self.temperature = widgets.FloatSlider(
            value=0.0, min=0.0, max=2.0, step=0.1, description="Temperature", readout_format=".1f", style=style
        )
        self.max_new_tokens = widgets.IntSlider(
            value=max_new_tokens, min=1, max=max(256, max_new_tokens), description="Max new tokens", style=style
        )
        self.question = widgets.Text(
            placeholder="type a question and press Enter",
            description="Question",
            continuous_update=False,
            layout=widgets.Layout(flex="1 1 14em", width="auto", min_width="0"),
        )
        # Not `send`: that is a method of ipywidgets.Widget.
        self.send_button = widgets.Button(description="Send", tooltip="send the question to the model")
        self.stop_button = widgets.Button(description="Stop", tooltip="stop the current reply")
        self.replies = widgets.HTML(value=_table([]))
        wide = widgets.Layout(width="auto", max_width="800px", flex_flow="row wrap")
        super().__init__(
            [
                widgets.HBox([self.temperature, self.max_new_tokens], layout=widgets.Layout(flex_flow="row wrap")),
                widgets.HBox([self.question, self.send_button, self.stop_button], layout=wide),
                self.replies,
            ]
        )
        self.question.observe(self._ask, "value")
        self.send_button.on_click(self._ask)
        self.stop_button.on_click(lambda _: self.stop_event.set())

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the current reply, at most `timeout` seconds. Returns whether no reply is being generated."""
        if self.thread is not None:
            self.thread.join(timeout)
        return self.thread is None or not self.thread.is_alive()

    def _ask(self, _: Any) -> None:
        with self.lock:
            text = self.question.value.strip()
            if not text or self.generating:  # one reply at a time; the next question stays in the field
                return
            self.generating = True
        self.question.value = ""
        self.stop_event = threading.Event()  # a new one: a late click on Stop belongs to the question before
        settings = self.temperature.value, self.max_new_tokens.value
        self.history.insert(0, (text, "…", _decoding(settings[0])))
        del self.history[MAX_SHOWN:]
        self.replies.value = _table(self.history)
        self.thread = threading.Thread(target=self._generate, args=(text, settings, self.stop_event), daemon=True)
        self.thread.start()

    def _generate(self, text: str, settings: tuple[float, int], stop_event: threading.Event) -> None:
        temperature, max_new_tokens = settings
        decoding = _decoding(temperature)

        def show(reply: str, note: str = "") -> None:
            self.history[0] = (text, reply, decoding + note)
            self.replies.value = _table(self.history)

        try:
            reply = self.session.reply(text, temperature, max_new_tokens, stop=stop_event, on_text=show)
        except Exception as error:
            show(f"(failed: {error!r})")  # an exception in a thread would not be visible in the notebook
            raise
        else:
            show(reply, ", stopped" if stop_event.is_set() else "")
        finally:
            self.generating = False


def chat_panel(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int = 64
) -> ChatPanel:
    """Return a ChatPanel for one model."""
    return ChatPanel(model, tokenizer, max_new_tokens)


def _decoding(temperature: float) -> str:
    return f"temperature {temperature:.1f}" if temperature else "greedy"


def _table(turns: Sequence[Turn]) -> str:
    return html_table(["question", "reply", "decoding"], turns, NOTICE, "chat with the model", REPLY_WIDTH)
