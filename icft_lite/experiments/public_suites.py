"""Public benchmarks, scored as lm-evaluation-harness (lm-eval) scores them: zero-shot, without the chat template.

Prompts and metrics follow the task files of lm-eval 0.4.13, so that scores can be compared with published ones. See
`icft_lite.evaluation` for suites in the chat format.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from peft import PeftModel
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from icft_lite.data.answers import LETTERS
from icft_lite.data.files import open_source
from icft_lite.data.schema import RawRow, Source, source_name
from icft_lite.errors import ICFTError
from icft_lite.modeling.encoding import Encoded, encode_responses
from icft_lite.modeling.scoring import score_responses
from icft_lite.modeling.self_check import check_model

LISTED = re.compile(r"(.*)\nChoices:\n(.*)\nAnswer:\s*", re.DOTALL)
"""A question whose options are part of its text, as some files have CommonsenseQA."""

DEFAULT_MAX_LENGTH = 2048
"""In tokens, for models without a number of positions; that of lm-eval."""


class Question(NamedTuple):
    """A question as lm-eval asks it."""

    context: str
    options: list[str]
    """They follow the context after a space. LAMBADA has one, the last word of the text."""
    gold: int
    """Index of the right option."""


class PublicSuite(NamedTuple):
    """A benchmark: where it is on the Hub, and how lm-eval asks its questions."""

    hub_name: str
    ask: Callable[[RawRow], Question]
    second_metric: str
    """What lm-eval reports besides `acc`; "" for nothing."""


def read_choices(row: RawRow) -> tuple[list[str], int]:
    """Return the options of a row and the index of the right one.

    `choices` is {text, label} with `answerKey`, or a list with the text of the right one in `answer`. PIQA has `sol1`,
    `sol2` and `label`.
    """
    choices = row["choices"] if "choices" in row else [row["sol1"], row["sol2"]]
    if isinstance(choices, Mapping):
        return list(choices["text"]), list(choices["label"]).index(row["answerKey"].strip())
    return list(choices), choices.index(row["answer"]) if "answer" in row else int(row["label"])


def _ask(row: RawRow) -> Question:
    """ARC and PIQA."""
    return Question(f"Question: {row.get('goal') or row['question']}\nAnswer:", *read_choices(row))


def _ask_stem(row: RawRow) -> Question:
    """OpenBookQA: a sentence to continue."""
    return Question(row.get("question_stem") or row["question"], *read_choices(row))


def _ask_letters(row: RawRow) -> Question:
    """CommonsenseQA: the options are listed, and their letters are scored. lm-eval's task has five options."""
    texts, gold = read_choices(row)
    if listed := LISTED.fullmatch(row["question"]):
        lines = listed[2].splitlines()
    else:
        lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, texts)]
    stem = listed[1] if listed else row["question"]
    return Question("\n".join([f"Question: {stem.strip()}", *lines, "Answer:"]), list(LETTERS[: len(texts)]), gold)


def _ask_ending(row: RawRow) -> Question:
    """HellaSwag: endings of a text."""
    context = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    return Question(_clean_wikihow(context), [_clean_wikihow(text) for text in row["endings"]], int(row["label"]))


def _clean_wikihow(text: str) -> str:
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def _ask_last_word(row: RawRow) -> Question:
    """LAMBADA: the last word of a text."""
    start, _, word = row["text"].rpartition(" ")
    return Question(start, [word], 0)


SUITES = {
    "arc_easy": PublicSuite("allenai/ai2_arc:ARC-Easy@test", _ask, "acc_norm"),
    "arc_challenge": PublicSuite("allenai/ai2_arc:ARC-Challenge@test", _ask, "acc_norm"),
    "piqa": PublicSuite("baber/piqa@validation", _ask, "acc_norm"),
    "openbookqa": PublicSuite("allenai/openbookqa:main@test", _ask_stem, "acc_norm"),
    "commonsense_qa": PublicSuite("tau/commonsense_qa@validation", _ask_letters, ""),
    "hellaswag": PublicSuite("Rowan/hellaswag@validation", _ask_ending, "acc_norm"),
    "lambada_openai": PublicSuite("EleutherAI/lambada_openai:default@test", _ask_last_word, "perplexity"),
}
"""The suites by the names that lm-eval's tasks have."""
TEXTS = ("hellaswag", "lambada_openai")
"""Suites that complete a text: their rows have no question."""


def read_questions(suite: str, source: Source | None = None, limit: int | None = None) -> list[Question]:
    """Return the questions of a suite.

    source: a file, a Hub name or rows; default: the data set that lm-eval uses, from the Hub. Rows have the columns of
    that data set, or `question`, `choices` (texts) and `answer` (a text), which HellaSwag and LAMBADA do not accept.
    limit: read the first ones only.
    Raises ICFTError if the suite is unknown, or a row does not have these columns.
    """
    if suite not in SUITES:
        raise ICFTError(f"suite {suite!r} is unknown; choose among {', '.join(SUITES)}")
    source = SUITES[suite].hub_name if source is None else source
    questions = []
    for where, _, row in islice(open_source(source)[1], limit):
        try:
            questions.append(question := SUITES[suite].ask(row))
        except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise ICFTError(
                f"{where}: not a question of {suite} ({type(error).__name__}: {error}); found the columns "
                f"{', '.join(map(str, row))}; give the data set as published"
                + ("" if suite in TEXTS else ", or question, choices (texts) and answer")
            ) from error
        if not question.context.strip() or not all(question.options):
            raise ICFTError(f"{where}: the question or an option is empty; remove the row")
        if not 0 <= question.gold < len(question.options):  # such as −1 in a test set whose labels are not published
            raise ICFTError(
                f"{where}: the right option is number {question.gold} of {len(question.options)}, counted from 0; "
                f"give a data set with answers"
            )
    if not questions:
        raise ICFTError(f"{source_name(source)}: no questions in it; give at least one")
    return questions


def encode_questions(
    questions: Iterable[Question], tokenizer: PreTrainedTokenizerBase, max_length: int, share_prompts: bool = True
) -> list[Encoded]:
    """Encode questions as lm-eval does.

    Context and option are tokenized together; the option's tokens are those after the tokens of the context. Spaces at
    the end of the context belong to the option. Of a question with more than max_length tokens, the beginning is cut.
    """
    encoded = []
    for context, options, _ in questions:
        start = context.rstrip()
        texts = [start, *(f"{context} {option}" for option in options)]
        prompt, *whole = tokenizer(texts).input_ids
        responses = [ids[len(prompt) :] for ids in whole]
        prompt = prompt[-max(1, max_length - max(map(len, responses))) :]
        encoded.append(encode_responses(prompt, responses, share_prompts))
    return encoded


def read_named_suites(named: Sequence[str], limit: int | None = None) -> dict[str, list[Question]]:
    """Return the questions of the suites of a command line, each given as NAME or NAME=FILE, by name.

    Raises ICFTError if a name is given twice, and what `read_questions` raises.
    """
    pairs = [text.partition("=") for text in named]
    names = [name for name, _, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ICFTError(f"--lm-eval: {twice[0]} is given twice; join its files, or evaluate them one after the other")
    return {name: read_questions(name, file or None, limit) for name, _, file in pairs}


def lm_eval_scores(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    suites: Mapping[str, Sequence[Question]],
    progress: bool = False,
) -> dict[str, dict[str, Any]]:
    """Score a model on public suites, with the definitions of lm-eval: {suite: {acc, …, n}}.

    suites: the questions of each, from `read_questions`. acc: share of questions whose right option has the largest
    summed log-probability; of LAMBADA, whose last word greedy decoding generates. acc_norm: the same per character of
    the option. perplexity: exp(mean NLL of the last word, in nats). n: number of questions. progress: show a bar.
    The model is left in eval mode. Raises what `check_model` raises.
    """
    model.eval()
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or DEFAULT_MAX_LENGTH
    share_prompts = check_model(model, tokenizer, min(positions, 512)).shared_prompts
    out: dict[str, dict[str, Any]] = {}
    total = sum(map(len, suites.values()))
    with tqdm(total=total, desc="scoring", unit="question", disable=not progress, delay=2, leave=False) as bar:
        for name, questions in suites.items():
            encoded = encode_questions(questions, tokenizer, positions, share_prompts)
            out[name] = summarize(SUITES[name], questions, score_responses(model, encoded, on_batch=bar.update))
    return out


def summarize(
    suite: PublicSuite, questions: Sequence[Question], scores: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, Any]:
    """Return the metrics of one suite. scores: of `score_responses`."""
    sums, gold = [score["logp"] for score in scores], [question.gold for question in questions]
    if suite.second_metric == "perplexity":
        acc = [bool(score["greedy"][0]) for score in scores]
        second = {"perplexity": math.exp(-np.mean([logp[0] for logp in sums]))}
    else:
        acc = [logp.argmax() == right for logp, right in zip(sums, gold)]
        norm = [
            (logp / list(map(len, question.options))).argmax() == question.gold
            for logp, question in zip(sums, questions)
        ]
        second = {"acc_norm": float(np.mean(norm))} if suite.second_metric else {}
    return dict(acc=float(np.mean(acc)), **second, n=len(gold))
