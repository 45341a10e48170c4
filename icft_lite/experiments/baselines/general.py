"""General examples for baselines that estimate from them what the base must retain (EWC, CorDA)."""

from icft_lite.errors import ICFTError
from icft_lite.memory.long_term import LongTermMemory
from icft_lite.memory.rehearsal import chat_memory, seed_memory
from icft_lite.modeling.encoding import Encoded
from icft_lite.training.prepare import Prepared
from icft_lite.utils.cache import reply_cache


def general_examples(prepared: Prepared, number: int) -> list[Encoded]:
    """Return at most `number` general examples with one response, balanced over topics, always the same for a seed.

    They are those that a long-term memory of this size would hold: of `data.general_memory`, and prompts of the chat
    suite with replies of the base. Raises ICFTError if there are none.
    """
    data, base = prepared.data, (prepared.model, prepared.tokenizer, prepared.encoder)
    memory = LongTermMemory(number, seed=prepared.config.seed, teach_prompts=False)
    replies = chat_memory(data.chat.get("memory", ()), number, *base, cache=reply_cache())
    seed_memory(memory, data.general_memory, (), *base, count=0, chat=replies)
    if not memory.entries:
        raise ICFTError("data: has no general examples for the memory, which this baseline needs; add --general")
    return [entry.encoded for entry in memory.entries]
