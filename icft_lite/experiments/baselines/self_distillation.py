"""Offline self-distillation (SDFT): the base rewrites the training replies, and plain fine-tuning learns the rewrites.

Source: Yang et al., 2024, arXiv 2402.13669, "Self-Distillation Bridges Distribution Gap in Language Model Fine-Tuning";
code sail-sg/sdft. A rewrite ỹ ~ base(instruction, reference) replaces the reference if an extraction of its answer
confirms it; else the reference stays.

As in the source: the base sees the instruction and the reference answer, and writes its own; a rewrite that speaks of
the "reference answer" is discarded (`gen_distilled_data.py`). Different: TEMPLATE is a user turn of the chat template;
decoding is greedy; the answer is confirmed if the rewrite contains all key facts of the example, or else the whole
reference, as words (`metrics.key_fact_recall`); a rewrite that reaches `max_new_tokens` is cut after its last whole
sentence, because the end of turn follows. Questions and pairs become plain responses: the reference is the right
response, or the most likely one under the weak label. Exact match does not suit a model that was trained on sentences:
use choice accuracy.

    data, counts = self_distilled_bundle(data, config, model, tokenizer, encoder)
    train_icft(config.replace({"limits.trusted": None, "limits.pool": None}), out, data)
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from icft_lite.config import ICFTConfig
from icft_lite.data.bundle import DataBundle
from icft_lite.data.schema import Example, as_response
from icft_lite.data.tables import iter_examples, to_dataset
from icft_lite.memory.prompt_quality import finish_reply
from icft_lite.metrics import key_fact_recall
from icft_lite.modeling.encoding import Encoder, encode_examples
from icft_lite.modeling.replies import greedy_replies
from icft_lite.training.examples import make_training_examples
from icft_lite.training.loop import select_data

TEMPLATE = (
    "{prompt}\n\nReference answer: {reference}\n\n"
    "Answer the message above in your own words. Use the reference answer as a guide and keep its facts."
)
LEAKS = ("reference answer", "my own words", "your own words")
"""Texts in a rewrite that speak of TEMPLATE, in lower case."""


def rewrite_replies(
    examples: Iterable[Example],
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    encoder: Encoder,
    max_new_tokens: int = 64,
) -> tuple[list[Example], Counter[str]]:
    """Return the examples as responses that the base has rewritten where possible, and how often each outcome occurred.

    examples: training examples of a run, with labels or posteriors. max_new_tokens: of a rewrite. Outcomes:
    "rewritten", or the reason why the reference stays: "too long", "no whole sentence", "mentions the template",
    "reference missing". Examples stay in order and retain their ids and key facts.
    """
    originals = [as_response(example) for example in examples]
    requests = [
        {**one, "prompt": TEMPLATE.format(prompt=one["prompt"], reference=one["responses"][0])} for one in originals
    ]
    fitting, _, _ = encode_examples(requests, encoder)
    replies = greedy_replies(model, tokenizer, encoder, list(fitting), max_new_tokens)
    lengths = [len(tokenizer(reply, add_special_tokens=False).input_ids) for reply in replies]
    finished = (finish_reply(reply, length, max_new_tokens) for reply, length in zip(replies, lengths))
    reply_of = {one["id"]: reply for one, reply in zip(fitting, finished, strict=True)}
    rewritten = [{**one, "responses": [reply_of.get(one["id"], "")]} for one in originals]
    too_long = {*(one["id"] for one in originals if one["id"] not in reply_of), *encode_examples(rewritten, encoder)[2]}
    counts: Counter[str] = Counter()
    chosen = []
    for before, after in zip(originals, rewritten, strict=True):
        reply, facts = after["responses"][0], before["facts"] or before["responses"]
        if before["id"] in too_long:
            outcome = "too long"
        elif not reply:
            outcome = "no whole sentence"
        elif any(text in reply.lower() for text in LEAKS):
            outcome = "mentions the template"
        else:
            outcome = "rewritten" if key_fact_recall(reply, facts) == 1 else "reference missing"
        counts[outcome] += 1
        chosen.append(after if outcome == "rewritten" else before)
    return chosen, counts


def self_distilled_bundle(
    data: DataBundle, config: ICFTConfig, model: PeftModel, tokenizer: PreTrainedTokenizerBase, encoder: Encoder
) -> tuple[DataBundle, Counter[str]]:
    """Return the bundle with its training examples rewritten, all of them in `trusted`, and the outcomes.

    The examples are those of a run of `config`, with the pool as it labels it; the limits are applied. model: the base,
    with or without adapters. Raises ICFTError as `make_training_examples` does.
    """
    data = select_data(config, data)
    examples, _ = make_training_examples(data, config, model, encoder)
    rewritten, counts = rewrite_replies(iter_examples(examples), model, tokenizer, encoder)
    trusted, none = to_dataset(rewritten), dict[str, int]()
    return replace(data, trusted=trusted, pool=None, pool_gold=none, posteriors=None, lfs=(), own_lfs={}), counts
