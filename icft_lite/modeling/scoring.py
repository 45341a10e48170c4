"""Scoring: log-probabilities of given responses."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from icft_lite.data.schema import Examples
from icft_lite.modeling.encoding import Encoded, Encoder
from icft_lite.modeling.forward import batch_states, head_weight
from icft_lite.modeling.losses import chunk_size
from icft_lite.utils.progress import progress_bar


@torch.no_grad()
def score_responses(
    model: PreTrainedModel | PeftModel,
    encoded: Sequence[Encoded],
    max_tokens: int | None = None,
    on_batch: Callable[[int], object] | None = None,
) -> list[dict[str, np.ndarray]]:
    """Return log-probabilities of every response of every example, one dict per example.

    Keys, each an array of shape [responses]: `logp`, float32, summed over the tokens; `tokens`, int64, how many tokens
    there are; `greedy`, bool, whether greedy decoding generates exactly this response. The values do not depend on
    how examples are batched or padded (up to rounding).

    max_tokens: maximum number of tokens in one forward pass, padding included; default: `forward.max_tokens_per_pass`.
    on_batch: called after each pass with the number of examples in it; None: a progress bar of its own.
    """
    if on_batch is None:
        with progress_bar(len(encoded), "scoring") as bar:
            return score_responses(model, encoded, max_tokens, bar.update)
    scores: list[dict[str, np.ndarray]] = [{} for _ in encoded]
    weight = head_weight(model)
    for group, batch, states in batch_states(model, encoded, max_tokens):
        logps, hits, size = [], [], chunk_size(len(weight), logits_per_token=2)
        for part, target in zip(states.split(size), batch["target"].split(size)):
            logits = (part @ weight.T).float()
            logps.append(logits.gather(1, target[:, None]).squeeze(1) - logits.logsumexp(-1))
            hits.append(logits.argmax(-1) == target)
        num_responses = len(batch["example"])
        zeros = torch.zeros(num_responses, device=weight.device)
        sums = zeros.index_add(0, batch["response"], torch.cat(logps)).cpu()
        counts = torch.bincount(batch["response"], minlength=num_responses).cpu()
        greedy = zeros.index_add(0, batch["response"], torch.cat(hits).float()).cpu() == counts
        sizes = [encoded[i].num_responses for i in group]
        for i, *values in zip(group, sums.split(sizes), counts.split(sizes), greedy.split(sizes)):
            scores[i] = dict(zip(("logp", "tokens", "greedy"), (value.numpy() for value in values)))
        on_batch(len(group))
    return scores


def option_scores(model: PreTrainedModel | PeftModel, examples: Examples, encoder: Encoder) -> list[np.ndarray]:
    """Return the model's score of each response, one float array [responses] per example.

    Questions: summed log-probability. Pairs: mean log-probability per token. With the bare base, this is the zero-shot
    vote among the labelling functions.
    """
    scores = score_responses(model, [encoder(example) for example in examples])
    return [
        score["logp"] / score["tokens"] if example["task"] == "pair" else score["logp"]
        for example, score in zip(examples, scores)
    ]
