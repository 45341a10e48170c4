"""From a data bundle to training examples: labelled ones as they are, those of the weak pool with posteriors."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets
from peft import PeftModel

from icft_lite.config import ICFTConfig
from icft_lite.data.bundle import DataBundle
from icft_lite.data.corpora.pubmedqa import is_pubmedqa
from icft_lite.data.schema import COLUMNS, Example, as_response
from icft_lite.data.tables import column, iter_examples, to_dataset
from icft_lite.errors import ICFTError
from icft_lite.modeling.adapters import use_adapter
from icft_lite.modeling.encoding import Encoder, encode_examples
from icft_lite.modeling.scoring import option_scores
from icft_lite.utils.distributed import on_main_process
from icft_lite.weak.files import EXAMPLE
from icft_lite.weak.functions import LabelingFunction, apply_lfs, check_names
from icft_lite.weak.lfs.pubmedqa import pubmedqa_weak_labels
from icft_lite.weak.lfs.samples import sample_lfs
from icft_lite.weak.pool import label_pool

OWN_LFS = ("samples", "pubmedqa")
"""Data sets that bring labelling functions: values of `DataBundle.own_lfs`."""
TRIED = 20
"""Number of examples on which labelling functions are tried before a run."""
Labels = tuple[list[list[float]], dict[str, Any]]
"""A posterior for each example ([] where nothing voted), and a report."""


def check_pool(data: DataBundle, config: ICFTConfig) -> None:
    """Raise ICFTError if the pool cannot be labelled. It takes no model, so a run calls it first.

    Labelling functions are tried on the first TRIED examples.
    """
    ids = column(data.pool, "id") if data.pool is not None else []
    if data.trusted is not None and (unlabelled := np.flatnonzero(np.array(column(data.trusted, "label")) < 0)).size:
        name = column(data.trusted, "id")[unlabelled[0]]
        raise ICFTError(f"trusted: example {name} has no label; put unlabelled examples into the pool")
    if config.weak.label_model == "gold":
        if missing := [name for name in ids if name not in data.pool_gold]:
            raise ICFTError(
                f"weak.label_model: the gold label of example {missing[0]} is not known; choose dawid_skene"
            )
        return
    if unknown := set(data.own_lfs.values()) - {*OWN_LFS}:
        raise ICFTError(f"own_lfs: {min(unknown)!r} names no labelling functions; use {' or '.join(OWN_LFS)}")
    others = [name for name in ids if name not in data.own_lfs] if data.posteriors is None else []
    if others and not data.lfs:
        raise ICFTError(
            f"{len(others)} examples have no label (the first is {others[0]}) and no labelling functions; write "
            "functions that vote on them and add --lfs FILE.py (in Python: DataBundle.lfs), or leave these examples "
            "out. A file that works for questions with options:",
            EXAMPLE,
        )
    if data.posteriors is not None and data.pool is not None:
        check_posteriors(data.pool, data.posteriors)
    check_names(data.lfs)
    if data.lfs and not others:
        raise ICFTError(
            f"lfs: they would label nothing, because none of the {len(ids)} unlabelled examples needs them (posteriors "
            "are given, or the data set brings labelling functions); leave out --lfs"
        )
    if data.lfs and data.pool is not None:  # an error in a function shows before the base is scored
        first = data.pool.select([i for i, name in enumerate(ids) if name not in data.own_lfs][:TRIED])
        scores = [[-1.0 - i for i in range(len(texts))] for texts in column(first, "responses")]
        apply_lfs(data.lfs, [{**one, "base_scores": s} for one, s in zip(iter_examples(first), scores, strict=True)])


def check_posteriors(pool: Dataset, posteriors: Mapping[str, Sequence[float]]) -> None:
    """Raise ICFTError unless given posteriors are probabilities over the responses of examples of the pool.

    An example without a posterior, or with [], has no label.
    """
    responses = dict(zip(column(pool, "id"), map(len, column(pool, "responses")), strict=True))
    if posteriors and not responses.keys() & posteriors.keys():
        raise ICFTError(f"posteriors: {next(iter(posteriors))!r} and all other ids are not in the pool; correct them")
    for name in filter(responses.__contains__, posteriors):
        p = np.array(posteriors[name], dtype=float)
        if p.size and not (len(p) == responses[name] and (p >= 0).all() and abs(p.sum() - 1) < 0.01):
            raise ICFTError(
                f"posteriors: that of example {name} is {p.tolist()}; give a probability for each of its "
                f"{responses[name]} responses"
            )


def make_training_examples(
    data: DataBundle, config: ICFTConfig, model: PeftModel, encoder: Encoder
) -> tuple[Dataset, dict[str, Any]]:
    """Return the training examples of a run and a report on their weak labels.

    Examples of the pool get a posterior from labelling functions and `weak.label_model`; those that no function voted
    on are dropped. The report's `uncertain_questions` is the number of weak questions that still have two options or
    more; L_task is 0 on the others. Its `too_long` has the ids of pool examples that do not fit `max_length`: they are
    left out before any function votes. With `weak.soft_labels` off, questions and pairs get hard labels (`harden`), and
    examples whose most likely responses are tied are dropped: `dropped_tied` is their number.

    Raises ICFTError as `check_pool` and `label_weak_pool` do.
    """
    check_pool(data, config)
    parts: list[Dataset] = []
    report: dict[str, Any] = {}
    if data.trusted is not None:
        parts.append(data.trusted.select_columns(list(COLUMNS)))
    if data.pool is not None and len(data.pool):
        pool, _, too_long = encode_examples(list(iter_examples(data.pool)), encoder)
        posteriors, report = on_main_process(lambda: label_weak_pool(data, pool, config, model, encoder))
        for example, posterior in zip(pool, posteriors, strict=True):
            example["posterior"] = [float(p) for p in posterior]
        # Lettered options are part of the prompt, so all of them stay.
        least = 0.0 if config.encoding.letter_options else config.weak.min_posterior
        weak = to_dataset(drop_improbable_options(example, least) for example in pool if example["posterior"])
        parts.append(weak)
        report["too_long"] = too_long
        report["uncertain_questions"] = sum(
            task == "question" and len(posterior) > 1
            for task, posterior in zip(column(weak, "task"), column(weak, "posterior"), strict=True)
        )
    examples = concatenate_datasets(parts) if parts else to_dataset([])
    if not config.weak.soft_labels:
        lettered = config.encoding.letter_options
        weak_labels = zip(column(examples, "label"), column(examples, "posterior"), strict=True)
        tied = [label < 0 and is_tied(posterior) for label, posterior in weak_labels]
        report |= {"dropped_tied": sum(tied)} if report else {}
        examples = to_dataset(harden(one, lettered) for one, is_out in zip(iter_examples(examples), tied) if not is_out)
    return examples, report


def is_tied(posterior: Sequence[float]) -> bool:
    """Return whether several responses are the most likely one, within rounding: such an example has no hard label."""
    return len(posterior) > 1 and bool(np.isclose(sorted(posterior)[-2], max(posterior), atol=1e-9))


def harden(example: Example, lettered: bool = False) -> Example:
    """Return an example with a hard label: a prompt with its most likely response and that response's probability.

    lettered: the options of questions are part of their prompts, so questions stay as they are, and training takes the
    most likely option as certain (`batches.new_item`).
    """
    if example["task"] == "response" or (lettered and example["task"] == "question"):
        return example
    posterior = example["posterior"]
    return {**as_response(example), "posterior": [max(posterior)] if posterior else []}


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
) -> Labels:
    """Return a posterior for each example of the pool ([] where nothing voted), and a report on the labels.

    Examples of a data set that brings labelling functions (`data.own_lfs`) are labelled by these, the others by
    `data.lfs`. The gold labels of the pool are read by `weak.label_model=gold` and to score labels, by nothing else.
    Raises ICFTError if a labelling function fails.
    """
    gold = {example["id"]: data.pool_gold[example["id"]] for example in pool if example["id"] in data.pool_gold}
    label_model = config.weak.label_model
    if label_model == "gold":
        exact = [np.eye(len(example["responses"]))[gold[example["id"]]].tolist() for example in pool]
        return exact, dict(label_model="gold", num_examples=len(pool), dropped_unvoted=0, accuracy=1.0, ece=0.0)
    if data.posteriors is not None:
        given = [[float(p) for p in data.posteriors.get(example["id"], [])] for example in pool]
        return given, dict(label_model="given", num_examples=len(pool), dropped_unvoted=sum(not p for p in given))

    def by_votes(examples: list[Example], lfs: Sequence[LabelingFunction]) -> Labels:
        with use_adapter(model, None):
            for example, scores in zip(examples, option_scores(model, examples, encoder), strict=True):
                example["base_scores"] = scores.tolist()
        return label_pool(examples, apply_lfs(lfs, examples), label_model, lfs, gold)

    def pubmedqa(examples: list[Example]) -> Labels:
        test = [example for example in iter_examples(data.test or []) if is_pubmedqa(example)]
        return pubmedqa_weak_labels(examples, test, label_model)

    label: dict[str, Callable[[list[Example]], Labels]] = {
        "samples": lambda examples: by_votes(examples, sample_lfs()),
        "pubmedqa": pubmedqa,
        "lfs": lambda examples: by_votes(examples, data.lfs),
    }
    posteriors: list[list[float]] = [[] for _ in pool]
    reports = []
    for name, labeller in label.items():
        members = [i for i, example in enumerate(pool) if data.own_lfs.get(example["id"], "lfs") == name]
        if members:
            found, report = labeller([pool[i] for i in members])
            reports.append(report)
            for i, posterior in zip(members, found, strict=True):
                posteriors[i] = posterior
    if len(reports) == 1:
        return posteriors, reports[0]
    joined: dict[str, Any] = {
        key: sum((report.get(key, []) for report in reports), []) for key in ("fits", "notes", "lfs")
    }
    unvoted = sum(not posterior for posterior in posteriors)
    return posteriors, dict(joined, label_model=label_model, num_examples=len(pool), dropped_unvoted=unvoted)
