"""Talk to a finished run in a terminal."""

from icft_lite.encoding import TooLong
from icft_lite.evaluate import ask
from icft_lite.model import load_run


def chat(folder, temperature=0.0, adapter="adapter", read=input, write=print):
    """Answer questions until an empty line or the end of input. Each question stands alone.

    `read` and `write` are the terminal's by default. Raises ICFTError if `folder` holds no finished run."""
    model, tokenizer = load_run(folder, adapter)
    write("Ask; an empty line ends it. Teaching material, not medical advice.")
    turn = 0
    while True:
        try:
            question = read("> ").strip()
        except EOFError:
            return
        if not question:
            return
        try:
            write(ask(model, tokenizer, question, temperature=temperature, seed=turn))
        except TooLong as error:
            write(f"({error})")
        turn += 1
