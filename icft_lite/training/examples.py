"""From a data bundle to training examples: labelled ones as they are, those of the weak pool with posteriors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets
from peft import PeftModel

from icft_lite.config import ICFTConfig
from icft_lite.data.bundle import DataBundle
from icft_lite.data.schema import COLUMNS, Example, as_response
from icft_lite.data.tables import column, iter_examples, to_dataset
from icft_lite.errors import ICFTError
from icft_lite.modeling.adapters import use_adapter
from icft_lite.modeling.encoding import Encoder, encode_examples
from icft_lite.modeling.scoring import option_scores
from icft_lite.utils.distributed import on_main_process
from icft_lite.weak.functions import apply_lfs
from icft_lite.weak.lfs.pubmedqa import pubmedqa_weak_labels
from icft_lite.weak.lfs.samples import sample_lfs
from icft_lite.weak.pool import label_pool


def make_training_examples(
    data: DataBundle, config: ICFTConfig, model: PeftModel, encoder: Encoder
) -> tuple[Dataset, dict[str, Any]]:
    """Return the training examples of a run and a report on their weak labels.

    Examples of the pool get a posterior from labelling functions and `weak.label_model`; those that no function voted
    on are dropped. The report's `uncertain_questions` is the number of weak questions that still have two options or
    more; L_task is 0 on the others. With `weak.soft_labels` off, every question and pair becomes its most likely
    response.
    """
    parts: list[Dataset] = []
    report: dict[str, Any] = {}
    if data.trusted is not None:
        parts.append(data.trusted.select_columns(list(COLUMNS)))
    if data.pool is not None and len(data.pool):
        pool = encode_examples(list(iter_examples(data.pool)), encoder)[0]
        posteriors, report = on_main_process(lambda: label_weak_pool(data, pool, config, model, encoder))
        for example, posterior in zip(pool, posteriors, strict=True):
            example["posterior"] = [float(p) for p in posterior]
        # Lettered options are part of the prompt, so all of them stay.
        least = 0.0 if config.encoding.letter_options else config.weak.min_posterior
        weak = to_dataset(drop_improbable_options(example, least) for example in pool if example["posterior"])
        parts.append(weak)
        report["uncertain_questions"] = sum(
            task == "question" and len(posterior) > 1
            for task, posterior in zip(column(weak, "task"), column(weak, "posterior"), strict=True)
        )
    examples = concatenate_datasets(parts) if parts else to_dataset([])
    if not config.weak.soft_labels:
        examples = to_dataset(
            example if example["task"] == "response" else as_response(example) for example in iter_examples(examples)
        )
    return examples, report


def drop_improbable_options(example: Example, min_posterior: float) -> Example:
    """Return a weak question without the options whose posterior is below `min_posterior`, renormalized.

    The most likely option always stays. Pairs keep both responses.
    """
    p = np.array(example["posterior"])
    keep = np.flatnonzero(p >= min(min_posterior, p.max()))
    if example["task"] != "question" or len(keep) == len(p):
        return example
    return {
        **example,
        "responses": [example["responses"][k] for k in keep],
        "posterior": (p[keep] / p[keep].sum()).tolist(),
    }


def label_weak_pool(
    data: DataBundle, pool: list[Example], config: ICFTConfig, model: PeftModel, encoder: Encoder
) -> tuple[Sequence[Sequence[float]], dict[str, Any]]:
    """Return a posterior for each example of the pool ([] where nothing voted), and a report on the labels.

    The gold labels of the pool are read by `weak.label_model=gold` and to score the labels, by nothing else.
    Raises ICFTError if gold labels are wanted and not known.
    """
    gold = {example["id"]: data.pool_gold[example["id"]] for example in pool if example["id"] in data.pool_gold}
    if config.weak.label_model == "gold":
        if missing := [example["id"] for example in pool if example["id"] not in gold]:
            raise ICFTError(
                f"weak.label_model: the gold label of example {missing[0]} is not known; choose dawid_skene"
            )
        exact = [np.eye(len(example["responses"]))[gold[example["id"]]].tolist() for example in pool]
        return exact, dict(label_model="gold", num_examples=len(pool), dropped_unvoted=0, accuracy=1.0, ece=0.0)
    if data.posteriors is not None:
        given = data.posteriors
        unvoted = sum(example["id"] not in given for example in pool)
        return (
            [given.get(example["id"], []) for example in pool],
            dict(label_model="given", num_examples=len(pool), dropped_unvoted=unvoted),
        )
    if all(example.get("long_answer") for example in pool):
        test = list(iter_examples(data.test)) if data.test is not None else []
        return pubmedqa_weak_labels(pool, test if test and all(one.get("long_answer") for one in test) else None)
    with use_adapter(model, None):
        for example, scores in zip(pool, option_scores(model, pool, encoder), strict=True):
            example["base_scores"] = scores.tolist()
    lfs = sample_lfs()
    return label_pool(pool, apply_lfs(lfs, pool), config.weak.label_model, lfs, gold)
