"""Generate replies."""

import torch

from icft_lite.modeling.base import head_weight
from icft_lite.modeling.encoding import Encoder


@torch.no_grad()
def generate(model, tokenizer, encoder, rows, max_new_tokens=64, batch=64, temperature=0.0, seed=0, **more):
    """The model's replies to canonical rows, greedy by default: a list of str. Stops at the end of turn.

    more: for the model's own `generate`, such as stopping_criteria."""
    prompts = [encoder.prompt_ids(row, room=max_new_tokens)[0] for row in rows]
    order = sorted(range(len(rows)), key=lambda i: len(prompts[i]))
    out, device = [None] * len(rows), head_weight(model).device
    sampling = dict(do_sample=True, temperature=temperature) if temperature else dict(do_sample=False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for start in range(0, len(order), batch):
            group = order[start : start + batch]
            longest = max(len(prompts[i]) for i in group)
            ids = torch.zeros(len(group), longest, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for r, i in enumerate(group):  # padded on the left: generation goes on at the right
                ids[r, longest - len(prompts[i]) :] = torch.tensor(prompts[i])
                mask[r, longest - len(prompts[i]) :] = 1
            written = model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                use_cache=True,
                max_new_tokens=max_new_tokens,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                **sampling,
                **more,
            )
            texts = tokenizer.batch_decode(written[:, longest:], skip_special_tokens=True)
            for i, text in zip(group, texts):
                out[i] = text.strip()
    return out


def generate_reply(model, tokenizer, question, encoder=None, **kwargs):
    """One question in plain text → the model's reply. A question may be as long as the tokenizer says the model
    takes (`finished.load_run` sets it to what the run was trained on); raises ICFTError for a longer one."""
    row = dict(id="asked", task="response", context="", prompt=question, history=[], responses=[""])
    return generate(model, tokenizer, encoder or Encoder(tokenizer, tokenizer.model_max_length), [row], **kwargs)[0]
