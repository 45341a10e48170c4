"""Promotion: at the end of a stage, replayed examples move from the ring into the long-term memory."""

from collections.abc import Iterator

from peft import PeftModel

from icft_lite.data.schema import Example, Examples
from icft_lite.data.tables import iter_examples
from icft_lite.memory.long_term import LongTermMemory
from icft_lite.modeling.adapters import use_adapter
from icft_lite.modeling.encoding import EncodedExamples, Encoder
from icft_lite.modeling.scoring import score_responses
from icft_lite.utils.distributed import on_main_process


def is_confident(example: Example, min_confidence: float) -> bool:
    """Return whether the label of an example is certain enough for promotion.

    A trusted example always is. A weakly labelled one is if the largest entry of its posterior reaches
    `min_confidence`.
    """
    return not example["posterior"] or max(example["posterior"]) >= min_confidence


def promote(
    memory: LongTermMemory, model: PeftModel, candidates: Examples, encoder: Encoder, min_confidence: float
) -> dict[str, int]:
    """Offer candidates to the long-term memory, each with its most likely response.

    Candidates with an uncertain label are left out (`is_confident`). The surprise of the others is their mean NLL per
    response token under the slow adapter.

    candidates: canonical examples. Returns the numbers of `candidates`, `gated` (left out for their label), `promoted`
    (added to the memory) and `evicted` (entries that they replaced).
    """

    def confident() -> Iterator[Example]:
        some = (example for example in iter_examples(candidates) if is_confident(example, min_confidence))
        return map(encoder.as_response, some)

    encoded, surprise = EncodedExamples(map(encoder, confident())), []
    if len(encoded):
        with use_adapter(model, "slow"):
            scores = on_main_process(lambda: score_responses(model, encoded))
        surprise = [-float((score["logp"] / score["tokens"])[0]) for score in scores]
    added, evicted = memory.add(confident(), encoder, "promoted", surprise)
    return dict(candidates=len(candidates), gated=len(candidates) - len(encoded), promoted=added, evicted=evicted)
