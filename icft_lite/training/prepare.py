"""Everything before the first stage: configuration and data → a frozen `Prepared`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, set_seed

from icft_lite.config import ICFTConfig, RuntimeConfig
from icft_lite.constraint import RetentionConstraint
from icft_lite.curriculum import SORTED_ORDERS, score_difficulty
from icft_lite.data.bundle import DataBundle
from icft_lite.data.chat_suite import held_out_items
from icft_lite.data.tables import column
from icft_lite.errors import ICFTError
from icft_lite.evaluation import Suite, primary_metric
from icft_lite.memory.long_term import LongTermMemory
from icft_lite.memory.rehearsal import chat_memory, seed_memory
from icft_lite.memory.teachers import check_space, mean_states
from icft_lite.modeling.adapters import add_adapters
from icft_lite.modeling.base import dequantize_base, load_base
from icft_lite.modeling.encoding import Encoded, EncodedExamples, Encoder, encode_examples
from icft_lite.modeling.forward import head_weight
from icft_lite.modeling.output_cache import OutputCache
from icft_lite.modeling.self_check import Capabilities, check_model
from icft_lite.presets import describe_settings
from icft_lite.reporting.build import accuracy_by_level
from icft_lite.retention import encode_for_kl
from icft_lite.training.checkpoint import RunPaths
from icft_lite.training.events import Events
from icft_lite.training.examples import make_training_examples
from icft_lite.training.plan import StagePlan, plan_stages
from icft_lite.training.suites import (
    ChatPart,
    encode_suites,
    evaluate_all,
    needs_no_generation,
    score_chat_parts,
)
from icft_lite.utils.cache import reply_cache
from icft_lite.utils.distributed import on_main_process, process_device


@dataclass(frozen=True)
class Prepared:
    """A run that is ready for its first stage.

    The model's two adapters and the long-term memory are its only state: stages update them through their methods.
    """

    config: ICFTConfig
    runtime: RuntimeConfig
    data: DataBundle
    paths: RunPaths
    model: PeftModel
    """The base with adapters `fast` and `slow`."""
    tokenizer: PreTrainedTokenizerBase
    capabilities: Capabilities
    """What the model's architecture supports. `runtime` and `encoder` follow it."""
    encoder: Encoder
    cache: OutputCache
    suites: dict[str, Suite]
    """general, medical (tests) and general_validation, medical_validation; those without examples are absent."""
    test_questions: dict[str, Suite]
    """The part of the tests that is scored after every stage: questions, with their correct option only."""
    baseline: dict[str, Any]
    """Scores of the base on `suites`."""
    chat: Mapping[str, ChatPart]
    """Parts `test` and `display` of the data's chat suite, and `validation` if consolidation searches for α. {} without
    a suite."""
    constraint: RetentionConstraint | None
    """What consolidation must satisfy, decided from the base's scores on general validation; None if it is off, or
    general or medical validation has no scores."""
    kl_examples: Sequence[Encoded]
    """General validation examples on which KL(base ‖ tuned) is measured; empty if it does not constrain."""
    examples: Dataset
    """Training examples: trusted ones, and weak ones with posteriors."""
    encoded: EncodedExamples
    left_out: list[str]
    """Ids of training examples that do not fit `max_length`."""
    label_report: dict[str, Any]
    """How the weak pool was labelled."""
    difficulty: np.ndarray | None
    """[examples] in 0…1; None if `curriculum.order` does not depend on it."""
    memory: LongTermMemory
    stages: tuple[StagePlan, ...]

    @property
    def baseline_levels(self) -> list[float | None]:
        """Scores of the base: [general, easy, medium, hard]."""
        return accuracy_by_level(self.baseline)


def prepare(config: ICFTConfig, data: DataBundle, runtime: RuntimeConfig, paths: RunPaths, events: Events) -> Prepared:
    """Load the base, score it, label the pool, seed the long-term memory, and build the curriculum.

    Raises ICFTError if the base cannot be loaded or the data cannot be trained on.
    """
    set_seed(config.seed)
    if config.model != ICFTConfig.model:
        events.say(describe_settings(config))
    with events.phase("load"):
        model, tokenizer = load_model(config, runtime)
        capabilities = on_main_process(lambda: check_model(model, tokenizer, config.encoding.max_length))
        for note in capabilities.notes:
            events.say(note)
        runtime = replace(runtime, packing=runtime.packing and capabilities.packing)
        cache = OutputCache(model, paths.cache, runtime.teacher_memory_mib * 2**20)
        encoder = Encoder(
            tokenizer,
            config.encoding.max_length,
            config.encoding.letter_options,
            config.encoding.share_prompts and capabilities.shared_prompts,
        )
        exact_match = primary_metric(config.metric, model) == "exact_match"
        suites = encode_suites(data, encoder, exact_match)
        test_questions: dict[str, Suite] = {
            name: Suite.from_examples(suites[name].examples, encoder, exact_match).subset(needs_no_generation)
            for name in ("general", "medical")
            if name in suites
        }
    with events.phase("evaluate"):
        baseline, chat = score_base(config, data, suites, model, tokenizer, encoder, events)
        constraint, kl_examples = decide_constraint(config, baseline, chat, suites, encoder, events)
    with events.phase("label"):
        examples, encoded, left_out, label_report = label_examples(config, data, model, encoder, events)
    with events.phase("seed memory"):
        memory = make_memory(config, runtime, model, base_teaches=bool(data.chat))
        if config.long_term.share:
            fill_memory(memory, config, data, suites, model, tokenizer, encoder, cache, events)
    with events.phase("difficulty"):
        difficulty = None
        if config.curriculum.order in SORTED_ORDERS:
            difficulty = score_difficulty(examples, model, encoded, config.curriculum.signals, cache)
        in_memory = [entry.encoded for entry in memory.entries]
        stages = plan_stages(config, column(examples, "level"), difficulty, encoded, in_memory)
    return Prepared(
        config=config,
        runtime=runtime,
        data=data,
        paths=paths,
        model=model,
        tokenizer=tokenizer,
        capabilities=capabilities,
        encoder=encoder,
        cache=cache,
        suites=suites,
        test_questions=test_questions,
        baseline=baseline,
        chat=chat,
        constraint=constraint,
        kl_examples=kl_examples,
        examples=examples,
        encoded=encoded,
        left_out=left_out,
        label_report=label_report,
        difficulty=difficulty,
        memory=memory,
        stages=stages,
    )


def load_model(config: ICFTConfig, runtime: RuntimeConfig) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """Return the base with its two adapters, and its tokenizer. Raises ICFTError."""
    base, tokenizer = load_base(config.model, config.adapter.load_in_4bit, process_device())
    if base.device.type == "cpu":
        base = dequantize_base(base, runtime.dequantize_below_mib * 2**20)
    return add_adapters(base, config.adapter.rank, config.adapter.alpha, config.seed), tokenizer


def score_base(
    config: ICFTConfig,
    data: DataBundle,
    suites: Mapping[str, Suite],
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    encoder: Encoder,
    events: Events,
) -> tuple[dict[str, Any], Mapping[str, ChatPart]]:
    """Return the scores of the base on the suites, and its replies to the chat suite: `baseline` and `chat`."""
    events.say(f"base {config.model}: scoring {sum(len(suite.examples) for suite in suites.values())} examples")
    baseline = on_main_process(
        lambda: evaluate_all(model, tokenizer, suites, "base", encoder, config.metric, events.progress)
    )
    for name, suite in suites.items():
        if name not in baseline:
            events.say(f"{name}: no example can be scored ({suite.left_out} do not fit encoding.max_length)")
    parts = ("validation", "test", "display") if config.consolidation.enabled else ("test", "display")
    chat = on_main_process(
        lambda: score_chat_parts(data.chat, parts, model, tokenizer, encoder, events.progress, reply_cache())
    )
    if "test" in chat:
        scores = chat["test"].base
        events.say(
            f"replies of the base: {scores['free']['value']:.2f} of {scores['free']['n']} free questions right, "
            f"{scores['instructions']['value']:.2f} of {scores['instructions']['n']} instructions passed"
        )
    return baseline, chat


def label_examples(
    config: ICFTConfig, data: DataBundle, model: PeftModel, encoder: Encoder, events: Events
) -> tuple[Dataset, EncodedExamples, list[str], dict[str, Any]]:
    """Return (training examples, the same encoded, ids of those that do not fit, how the weak pool was labelled).

    Raises ICFTError if none is left.
    """
    examples, report = make_training_examples(data, config, model, encoder)
    for note in report.get("notes", []):
        events.say(note)
    examples, encoded, left_out = encode_examples(examples, encoder)
    left_out += report.pop("too_long", [])
    if left_out:
        events.say(
            f"{len(left_out)} training examples do not fit encoding.max_length={config.encoding.max_length}: left out"
        )
    if not examples:
        raise ICFTError(
            "data: no training example is left (none is labelled, and no labelling function voted); "
            "add labelled examples or labelling functions"
        )
    return examples, encoded, left_out, report


def fill_memory(
    memory: LongTermMemory,
    config: ICFTConfig,
    data: DataBundle,
    suites: Mapping[str, Suite],
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    encoder: Encoder,
    cache: OutputCache,
    events: Events,
) -> None:
    """Seed the long-term memory with general data, replies of the base and self-generated prompts.

    Raises ICFTError if the teacher states of its examples would fit neither the memory nor the disk.
    """
    general = [suites[name] for name in ("general", "general_validation") if name in suites]
    outcomes = seed_memory(
        memory,
        data.general_memory,
        [example for suite in general for example in suite.examples],
        model,
        tokenizer,
        encoder,
        config.long_term.self_prompts,
        config.seed,
        on_main_process(
            lambda: chat_memory(
                data.chat.get("memory", ()),
                memory.size,
                model,
                tokenizer,
                encoder,
                events.progress,
                reply_cache(),
            )
        ),
        [*held_out_items(data.chat), *(held_out_items() if data.chat else ())],  # also those that `limits` leave out
    )
    if outcomes and config.model != ICFTConfig.model:
        counts = ", ".join(f"{count} {reason}" for reason, count in outcomes.most_common())
        events.say(f"self-generated prompts: {counts}")
    topics = {entry.example["topic"] for entry in memory.entries}
    events.say(f"long-term memory: {len(memory)} examples from {len(topics)} topics")
    if config.loss.consistency_weight:
        entries, hidden = [entry.encoded for entry in memory.entries], head_weight(model).shape[1]
        note = on_main_process(lambda: check_space(entries, hidden, cache, memory.teacher_dtype))
        if config.model != ICFTConfig.model:  # the states of `tiny` are small
            events.say(note)


def decide_constraint(
    config: ICFTConfig,
    baseline: Mapping[str, Any],
    chat: Mapping[str, ChatPart],
    suites: Mapping[str, Suite],
    encoder: Encoder,
    events: Events,
) -> tuple[RetentionConstraint | None, Sequence[Encoded]]:
    """Return the constraint of consolidation and the examples on which it measures KL, and say what it is.

    None without consolidation, or if there is no medical validation or no general one.
    """
    if not config.consolidation.enabled:
        return None, ()
    general, validation = baseline.get("general_validation", {}), chat.get("validation")
    if "medical_validation" not in baseline or not (general or validation):
        events.say("consolidation is off, and nothing constrains forgetting: it needs general and medical validation")
        return None, ()
    limits = config.consolidation.max_drop, config.consolidation.max_kl
    constraint = RetentionConstraint.from_base(general, *limits, validation.base if validation else None)
    if constraint.uninformative:
        events.say(f"the base is not above chance on: {', '.join(constraint.uninformative)}")
    events.say(f"constraint of consolidation: {constraint.describe()}")
    if not constraint.limits_kl:
        return constraint, ()
    if validation:
        return constraint, validation.encode(encoder)
    return constraint, encode_for_kl(suites["general_validation"].examples, encoder)


def make_memory(
    config: ICFTConfig, runtime: RuntimeConfig, model: PeftModel, base_teaches: bool = False
) -> LongTermMemory:
    """Return an empty long-term memory. base_teaches: the base writes the responses that seed it."""
    return LongTermMemory(
        config.long_term.size,
        config.long_term.policy,
        config.long_term.reservoir_share,
        runtime.teacher_dtype,
        config.seed,
        partial(mean_states, model),
        bool(config.loss.consistency_weight) and config.loss.consistency_tokens == "all",
        base_teaches,
    )
