"""Chat with one model: temperature, most tokens, and a Stop button that stops it."""

import threading

import ipywidgets as widgets
from IPython.display import HTML

from icft_lite.chat import ChatSession
from icft_lite.widgets.table import html_table

KEPT = 10
"""Questions the panel goes on showing, the newest first."""


def chat_table(model, tokenizer, questions, temperature=0.0, max_new_tokens=64):
    """The panel's table for a list of questions: an IPython.display.HTML."""
    talk = ChatSession(model, tokenizer)
    return HTML(
        _table([(text, talk.reply(text, temperature, max_new_tokens), _how(temperature)) for text in questions])
    )


class ChatPanel(widgets.VBox):
    """A field (Enter sends), Send, Stop, and the replies as they grow. Each question stands alone.

    The model writes in a thread of its own, so that the page stays alive: Stop ends it at the next token. Do not
    ask the same model elsewhere meanwhile. Children: (temperature, tokens), (question, submit, stop), replies."""

    def __init__(self, model, tokenizer, max_new_tokens=64):
        self.talk, self.asked, self.writing = ChatSession(model, tokenizer), [], False
        self.thread, self.halt = None, threading.Event()
        self.sending = threading.Lock()  # JupyterLab may run two controls' callbacks in two threads
        whole = {"description_width": "initial"}  # labels are not cut
        self.temperature = widgets.FloatSlider(
            value=0.0, min=0.0, max=2.0, step=0.1, description="Temperature", readout_format=".1f", style=whole
        )
        self.tokens = widgets.IntSlider(value=max_new_tokens, min=1, max=256, description="Most tokens", style=whole)
        self.question = widgets.Text(
            placeholder="type a question and press Enter",
            description="Question",
            continuous_update=False,
            layout=widgets.Layout(flex="1 1 auto", width="auto"),
        )
        self.submit = widgets.Button(description="Send", tooltip="ask the model")
        self.stop = widgets.Button(description="Stop", tooltip="end the reply under way")
        self.replies = widgets.HTML(value=_table([]))
        wide = widgets.Layout(width="auto", max_width="800px")
        super().__init__(
            [
                widgets.HBox([self.temperature, self.tokens], layout=widgets.Layout(flex_flow="row wrap")),
                widgets.HBox([self.question, self.submit, self.stop], layout=wide),
                self.replies,
            ]
        )
        self.question.observe(self._ask, "value")
        self.submit.on_click(self._ask)
        self.stop.on_click(lambda _: self.halt.set())

    def wait(self, seconds=None):
        """Wait for the reply under way. Returns True if there is none any more."""
        if self.thread is not None:
            self.thread.join(seconds)
        return self.thread is None or not self.thread.is_alive()

    def _ask(self, _):
        with self.sending:
            text = self.question.value.strip()
            if not text or self.writing:  # one at a time; a question sent meanwhile stays in the field
                return
            self.writing = True
        self.question.value = ""
        self.halt = threading.Event()  # this question's own: a click that came late for the last one is forgotten
        settings = self.temperature.value, self.tokens.value
        self.asked.insert(0, (text, "…", _how(settings[0])))
        del self.asked[KEPT:]
        self.replies.value = _table(self.asked)
        self.thread = threading.Thread(target=self._write, args=(text, settings, self.halt), daemon=True)
        self.thread.start()

    def _write(self, text, settings, halt):
        how = _how(settings[0])

        def show(said, how=how):
            self.asked[0] = (text, said, how)
            self.replies.value = _table(self.asked)

        try:
            said = self.talk.reply(text, *settings, stop=halt, told=show)
        except Exception as error:  # a thread's error would go unseen
            show(f"(failed: {error!r})")
            raise
        else:
            show(said, f"{how}, stopped" if halt.is_set() else how)
        finally:
            self.writing = False


def chat_panel(model, tokenizer, max_new_tokens=64):
    """A ChatPanel for one model."""
    return ChatPanel(model, tokenizer, max_new_tokens)


def _how(temperature):
    return f"temperature {temperature:.1f}" if temperature else "greedy"


def _table(asked):
    return html_table(["question", "reply", "how"], asked)
