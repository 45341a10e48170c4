"""The embedded model: weights, tokenizer, model card."""
