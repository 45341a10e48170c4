"""The language model: loading, adapters, chat format, encoding, packing, losses, scoring, generation and caching."""
