"""From a data bundle to training rows: trusted rows as they are, pool rows with posteriors."""

import numpy as np
from datasets import concatenate_datasets

from icft_lite.data.schema import COLUMNS, as_response
from icft_lite.data.tables import column, iter_examples, to_dataset
from icft_lite.errors import ICFTError
from icft_lite.modeling.adapters import use_adapter
from icft_lite.modeling.encoding import encode_examples
from icft_lite.modeling.scoring import option_scores
from icft_lite.utils.distributed import on_main_process
from icft_lite.weak.functions import apply_lfs
from icft_lite.weak.lfs.pubmedqa import pubmedqa_weak_labels
from icft_lite.weak.lfs.samples import sample_lfs
from icft_lite.weak.pool import label_pool


def make_training_examples(data, config, model, encoder):
    """The training rows of a run, a Dataset: (rows, report).

    Pool rows get a posterior from labelling functions and config.label_model; rows that nobody voted on are
    dropped. The report's `unsure_questions` have two options or more left: those alone, and pairs, are what L_task can
    teach. `gold` puts the known answers in the posterior's place; nothing else reads them, save to score
    the labels. With config.soft_labels off, a weak row becomes its likeliest response, taken as certain."""
    parts, report = [data.trusted.select_columns(list(COLUMNS))] if data.trusted is not None else [], {}
    if data.pool is not None and len(data.pool):
        pool = encode_examples(list(iter_examples(data.pool)), encoder)[0]
        posteriors, report = on_main_process(lambda: label_weak_pool(data, pool, config, model, encoder))
        for row, posterior in zip(pool, posteriors):
            row["posterior"] = [float(p) for p in posterior]
        least = 0.0 if config.letter_options else config.least_posterior  # lettered options are part of the prompt
        parts.append(weak := to_dataset(drop_improbable_options(row, least) for row in pool if row["posterior"]))
        report["unsure_questions"] = sum(
            task == "question" and len(posterior) > 1
            for task, posterior in zip(column(weak, "task"), column(weak, "posterior"))
        )
    rows = concatenate_datasets(parts) if parts else to_dataset([])
    if not config.soft_labels:
        rows = to_dataset(row if row["task"] == "response" else as_response(row) for row in iter_examples(rows))
    return rows, report


def drop_improbable_options(row, least):
    """A weak question without the options less likely than `least`, their share given to the others; the likeliest
    always stays. Pairs keep both."""
    p = np.array(row["posterior"])
    keep = np.flatnonzero(p >= min(least, p.max()))
    if row["task"] != "question" or len(keep) == len(p):
        return row
    return {**row, "responses": [row["responses"][k] for k in keep], "posterior": (p[keep] / p[keep].sum()).tolist()}


def label_weak_pool(data, pool, config, model, encoder):
    """Posteriors for the pool's rows, and the report on labels."""
    gold = {row["id"]: data.pool_gold[row["id"]] for row in pool if row["id"] in data.pool_gold}
    if config.label_model == "gold":
        if missing := [row["id"] for row in pool if row["id"] not in gold]:
            raise ICFTError(f"label_model: gold is not known for row {missing[0]}; choose dawid_skene")
        exact = [np.eye(len(row["responses"]))[gold[row["id"]]].tolist() for row in pool]
        return exact, dict(label_model="gold", rows=len(pool), dropped_unvoted=0, accuracy=1.0, ece=0.0)
    if data.posteriors is not None:
        return (
            [data.posteriors.get(row["id"], []) for row in pool],
            dict(
                label_model="given",
                rows=len(pool),
                dropped_unvoted=sum(row["id"] not in data.posteriors for row in pool),
            ),
        )
    if all(row.get("long_answer") for row in pool):
        test = list(iter_examples(data.test)) if data.test is not None else None
        test = test if test and all(row.get("long_answer") for row in test) else None
        return pubmedqa_weak_labels(pool, test)
    with use_adapter(model, None):
        for row, scores in zip(pool, option_scores(model, pool, encoder)):
            row["base_scores"] = scores.tolist()
    lfs = sample_lfs()
    return label_pool(pool, apply_lfs(lfs, pool), config.label_model, lfs, gold)
