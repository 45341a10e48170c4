"""Self-check of a model: what its architecture supports, measured on two short examples.

Packing and shared prompts rely on an attention mask of our own. Convolutions, recurrent states and ALiBi do not follow
it, so that examples would change each other. No list of such families can be complete. The check compares passes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from icft_lite.errors import ICFTError, short_reason
from icft_lite.modeling.chat_format import ChatFormat
from icft_lite.modeling.encoding import Encoded
from icft_lite.modeling.forward import backbone, head_weight, hidden_states
from icft_lite.modeling.generation import default_generation, join_prompts
from icft_lite.modeling.packing import join_batch

PROMPT, RESPONSES = 12, (16, 7)
"""Lengths of the prompt and of the two responses of the check, in tokens."""
ROUNDING = {torch.float32: 2e-5, torch.float16: 0.02, torch.bfloat16: 0.06}
"""Relative difference, mean over tokens, that rounding explains in 28 random layers. Leaks cause 0.2 and more there."""
FEATURES = {"packing": "runtime.packing", "shared prompts": "encoding.share_prompts"}
"""What may be unsupported, and the setting that is then off."""


@dataclass(frozen=True)
class Capabilities:
    """What a model's architecture supports."""

    packing: bool = True
    """Several sequences in one row, with a block-diagonal attention mask."""
    shared_prompts: bool = True
    """All options of a question after one copy of the prompt."""
    notes: tuple[str, ...] = ()
    """For the user: a sentence about each restriction."""


def check_model(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, max_length: int = 512
) -> Capabilities:
    """Compare packed, shared and padded passes of a model with plain passes of one sequence.

    max_length: of the examples, in tokens. If the model has a shorter sliding window, the check's sequences are longer
    than the window. Takes six short passes. Raises ICFTError if tokenizer, model and max_length do not fit together
    (`check_tokenizer`), if the model cannot be run, or if it is wrong in a padded batch.
    """
    check_tokenizer(tokenizer, model, max_length)
    kind, weight = model.config.model_type, head_weight(model)
    window = getattr(backbone(model).config, "sliding_window", None) or max_length
    size = window if window < max_length else PROMPT
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(4, len(weight) // 2, (size + sum(RESPONSES),), generator=random).tolist()
    sequences = [ids[: size + RESPONSES[0]], ids[:size] + ids[size + RESPONSES[0] :]]
    separate = [_encoded(sequence) for sequence in sequences]
    shared = _encoded(ids, [0] * size + [1] * RESPONSES[0] + [2] * RESPONSES[1])

    def states(*encoded: Encoded, pack: bool = False) -> torch.Tensor:
        batch = join_batch(encoded, 0, weight.device, pack)
        return hidden_states(model, batch)[batch["row"], batch["position"]]

    def compare(run: Callable[[], torch.Tensor], expected: torch.Tensor) -> tuple[float, str]:
        try:
            found = run().float()
        except Exception:  # each architecture fails in its own way
            return torch.inf, "it does not accept the attention mask"
        difference = float(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).mean())
        return difference, f"outputs differ by {difference:.0e} of their size"

    with torch.no_grad():
        try:
            long, short = (states(one).float() for one in separate)
        except (RuntimeError, TypeError, AttributeError, ValueError) as error:
            raise ICFTError(f"model: {kind} cannot be run ({short_reason(error)}); choose another base") from error
        both, limit = torch.cat([long, short]), ROUNDING[model.dtype]
        if not both.isfinite().all():
            raise ICFTError(
                f"model: the outputs of {kind} are not finite numbers; its weights are damaged, or too large for "
                f"{str(model.dtype)[6:]}"
            )
        logits = short[-1:] @ weight.float().T
        for what, (difference, reason) in {
            "lets a token see those after it": compare(lambda: long[:size], short[:size]),
            "is wrong in batches that are padded on the right": compare(lambda: states(*separate), both),
            "is wrong in batches that are padded on the left": compare(lambda: _next_logits(model, sequences), logits),
        }.items():
            if not difference <= 5 * limit:  # such a model is refused, so the limit is less strict
                raise ICFTError(f"model: {kind} {what} ({reason}); choose another base")
        found = {  # compared where the other example could be seen: in the second one
            "packing": compare(lambda: states(*separate, pack=True)[len(long) :], short),
            "shared prompts": compare(lambda: states(shared)[len(long) :], short[size:]),
        }
    notes = [
        f"{kind} does not support {what} ({reason}): {FEATURES[what]} is off"
        for what, (difference, reason) in found.items()
        if not difference <= limit
    ]
    packing, shared_prompts = (difference <= limit for difference, _ in found.values())
    return Capabilities(packing, shared_prompts, tuple(notes + _full_precision_note(model)))


def check_tokenizer(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel | PeftModel, max_length: int = 512
) -> None:
    """Raise ICFTError if there is no end of turn, a token has no embedding, or the model has too few positions.

    Special tokens that the chat template does not use may be without embedding: Gemma 3 has one for images.
    """
    chat = ChatFormat(tokenizer)
    if not chat.stop_ids:
        raise ICFTError(
            "tokenizer: neither it nor its chat template has a token that ends a turn, so replies would never end; set "
            "tokenizer.eos_token, and save the tokenizer"
        )
    rows = model.get_input_embeddings().weight.shape[0]
    added = (i for i, token in tokenizer.added_tokens_decoder.items() if not token.special)
    used = [*chat.prompt_ids([{"role": "user", "content": "?"}]), *chat.end_of_turn_ids, *chat.stop_ids]
    largest = max(*used, tokenizer.pad_token_id or 0, tokenizer.vocab_size - 1, *added)
    if largest >= rows:
        raise ICFTError(
            f"tokenizer: its token {tokenizer.convert_ids_to_tokens(largest)!r} has the id {largest}, but the model "
            f"has embeddings for ids 0 to {rows - 1} only; use the model's own tokenizer, or resize the model's "
            f"embeddings and save it"
        )
    check_positions(model.config, max_length)


def check_positions(config: PreTrainedConfig, max_length: int) -> None:
    """Raise ICFTError if a model with this configuration has fewer positions than `max_length`."""
    config = config.get_text_config()
    positions = None if getattr(config, "alibi", False) else getattr(config, "max_position_embeddings", None)
    if positions and max_length > positions:
        raise ICFTError(
            f"encoding.max_length: {max_length} tokens, but {config.model_type} has {positions} positions; "
            f"set it (--max-length) to {positions} or less"
        )


def _encoded(ids: list[int], segments: list[int] | None = None) -> Encoded:
    """Return token ids as an example in which every token is supervised."""
    return Encoded([ids], [(0, position, 0, 0) for position in range(len(ids))], 1, segments)


def _next_logits(model: PreTrainedModel | PeftModel, sequences: Sequence[list[int]]) -> torch.Tensor:
    """Return the logits [1, vocab] after the last sequence, as `generate` computes them in a batch of all."""
    device = head_weight(model).device
    ids, mask = join_prompts(sequences)
    with default_generation(model) as base:
        output = base.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=1,
            do_sample=False,
            use_cache=True,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return output.logits[0][-1:]


def _full_precision_note(model: PreTrainedModel | PeftModel) -> list[str]:
    """Return a sentence about a 4-bit model whose weights are mostly in full precision, such as fused experts."""
    embeddings = model.get_input_embeddings().weight
    frozen = [one for one in backbone(model).parameters() if not one.requires_grad and one is not embeddings]
    packed = sum(2 * weight.numel() for weight in frozen if hasattr(weight, "quant_state"))
    full = sum(weight.numel() for weight in frozen if not hasattr(weight, "quant_state"))
    if not packed or full <= packed:
        return []
    return [
        f"{model.config.model_type}: {packed / (packed + full):.0%} of the layers' weights are in 4 bits, because "
        f"bitsandbytes quantizes linear layers only; the others (experts) are in {str(model.dtype)[6:]}"
    ]
