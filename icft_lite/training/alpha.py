"""The choice of the interpolation coefficient at the end of a stage: its candidates are scored on validation data."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from math import inf

import torch

from icft_lite.chat_metrics import chat_retention, evaluate_chat
from icft_lite.constraint import RetentionConstraint
from icft_lite.data.schema import LEVELS
from icft_lite.evaluation import Suite, evaluate_suite
from icft_lite.memory.consolidation import (
    EXTRAPOLATION_ALPHAS,
    CandidateScores,
    ConsolidationResult,
    consolidate,
    scale_down,
)
from icft_lite.metrics import mean_score
from icft_lite.modeling.adapters import copy_adapter
from icft_lite.retention import divergence, supervised_states
from icft_lite.training.events import Events
from icft_lite.training.plan import StagePlan
from icft_lite.training.prepare import Prepared
from icft_lite.utils.distributed import on_main_process


def choose_alpha(
    prepared: Prepared, stage: StagePlan, start: list[torch.Tensor], events: Events
) -> ConsolidationResult:
    """Set the slow adapter to an interpolation coefficient that meets the retention constraint.

    The best one; with a chat suite, whose replies take long, the largest one that `scale_down` tries.
    """
    config, model, suites = prepared.config, prepared.model, prepared.suites
    constraint, is_last = prepared.constraint, stage.number == len(prepared.stages)
    if constraint is None:
        copy_adapter(model, "fast", "slow")
        return no_search(1.0)
    medical = trained_levels(suites["medical_validation"], prepared, stage)
    if not is_last:
        constraint = replace(constraint, chat=False)  # KL limits what the replies of a short stage lose

    @cache
    def base_states() -> list[torch.Tensor]:
        return supervised_states(model, prepared.kl_examples)

    def score() -> CandidateScores:
        scores = on_main_process(lambda: score_candidate(prepared, constraint, medical, base_states, events.progress))
        events.emit("on_candidate", scores=scores)
        return scores

    rank, scale = config.adapter.rank, config.adapter.alpha / config.adapter.rank
    if "validation" in prepared.chat:
        return scale_down(model, start, score, constraint.allows, constraint.max_kl, rank, scale)
    # Only in the last stage: a later stage would have to recover the general knowledge that extrapolation loses.
    beyond = EXTRAPOLATION_ALPHAS if is_last else ()
    return consolidate(
        model,
        start,
        score,
        constraint.allows,
        rank,
        scale,
        config.consolidation.exact,
        extrapolation_alphas=beyond,
    )


def score_candidate(
    prepared: Prepared,
    constraint: RetentionConstraint,
    medical: Suite,
    base_states: Callable[[], Sequence[torch.Tensor]],
    progress: bool = False,
) -> CandidateScores:
    """Return the validation scores of the slow adapter, replies last: only if nothing else rules it out.

    base_states: returns the base's `supervised_states` of `prepared.kl_examples`.
    """
    model, tokenizer, encoder = prepared.model, prepared.tokenizer, prepared.encoder
    suites = {"medical": medical} | (
        {"general": prepared.suites["general_validation"]} if "general_validation" in prepared.suites else {}
    )
    scores = evaluate_suite(
        model, tokenizer, suites, "slow", encoder, metric=prepared.config.metric, generate_replies=False
    )
    kl = divergence(model, prepared.kl_examples, "slow", base_states()).kl if constraint.limits_kl else None
    found = CandidateScores(
        general=mean_score(scores["general"]) if "general" in scores else 0.0,
        medical=mean_score(scores["medical"]),
        retention=constraint.retention(scores["general"]) if constraint.topics else None,
        chat_retention=None,
        kl=kl,
    )
    if constraint.chat and constraint.allows({**found, "chat_retention": inf}):
        found["chat_retention"] = retention_in_replies(prepared, progress)
    return found


def retention_in_replies(prepared: Prepared, progress: bool) -> float:
    """Return the slow adapter's retention in its replies to the validation part of the chat suite."""
    part = prepared.chat["validation"]
    tuned = evaluate_chat(prepared.model, prepared.tokenizer, prepared.encoder, part.items, "slow", progress=progress)
    return chat_retention(part.base, tuned, part.items, n_resamples=1).value


def trained_levels(medical: Suite, prepared: Prepared, stage: StagePlan) -> Suite:
    """Return the validation examples of the levels trained so far, or all if stages are not levels."""
    levels = {one.name for one in prepared.stages[: stage.number]}
    by_level = levels <= set(LEVELS)
    part = medical.subset(lambda example: example["label"] >= 0 and (not by_level or example["level"] in levels))
    return part if part.examples else medical


def no_search(alpha: float) -> ConsolidationResult:
    """Return a ConsolidationResult for a coefficient that was set without a search."""
    return ConsolidationResult(alpha=alpha, origin="start", candidates=[], refused=False, svd_residual=0.0)
