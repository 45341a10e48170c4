"""What is understood of the user's data, before anything trains: `icft-lite check`.

Of the model, only the tokenizer and the configuration are loaded.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from icft_lite.config import ICFTConfig
from icft_lite.data.bundle import GENERAL_ROLES, MEDICAL_ROLES, DataBundle
from icft_lite.data.groups import content_texts
from icft_lite.data.overlap import near_duplicates
from icft_lite.data.schema import Example, Examples, best_response
from icft_lite.data.tables import iter_columns, iter_examples
from icft_lite.errors import ICFTError
from icft_lite.modeling.base import load_model_config, load_tokenizer
from icft_lite.modeling.base_checks import check_architecture
from icft_lite.modeling.encoding import Encoder, TooLong
from icft_lite.modeling.self_check import check_positions
from icft_lite.training.examples import check_pool

TRAINED = ("trusted", "pool", "general_memory")
"""Roles whose examples are trained on."""
MAX_PAIRS = 3
"""Number of pairs of duplicates that are named."""
IMBALANCE = 3.0
"""Standard deviations above chance from which on a position of the right option is reported."""

Facts = dict[str, Any]
"""Plain values, ready for JSON."""


def check_fit(data: DataBundle, config: ICFTConfig) -> Facts:
    """Return the short summary that `train` prints: sources, examples by role, and how they fit `max_length`.

    Keys: model (whose tokenizer counts), max_length, sources (SourceSummary as dicts), roles ({role: {n, tasks, tokens:
    {median, p95, max}, truncated, left_out}}) and refusal (why the model cannot be trained on the data, or None). An
    example's tokens are those of its prompt and its longest response, before anything is truncated.

    Raises ICFTError if the tokenizer cannot be loaded or has no chat template.
    """
    encoder = _encoder(config)
    whole = _encoder(config, max_length=2**31)
    found: Facts = dict(model=config.model, max_length=encoder.max_length)
    found["sources"] = [{**vars(one), "left_out": dict(one.left_out)} for one in data.summaries]
    refused: list[str] = []
    found["roles"] = {role: _fit(part, encoder, whole, refused) for role, part in _roles(data).items()}
    more = f" ({len(refused)} examples cannot be encoded)" if len(refused) > 1 else ""
    found["refusal"] = refused[0] + more if refused else None
    trained = [one for role, one in found["roles"].items() if role in ("trusted", "pool")]
    if not refused and all(one["left_out"] == one["n"] for one in trained):
        found["refusal"] = (
            f"none of the {sum(one['n'] for one in trained)} training examples fits encoding.max_length = "
            f"{encoder.max_length}; raise it, or shorten the examples"
        )
    try:
        model_config = load_model_config(config.model)
        check_architecture(config.model, model_config)
        check_positions(model_config, encoder.max_length)
        check_pool(data.only(config.topics), config)
    except ICFTError as error:
        found["refusal"] = str(error)
    return found


def check_data(data: DataBundle, config: ICFTConfig | None = None) -> Facts:
    """Return everything that `icft-lite check` shows.

    The keys of `check_fit`, and:

        labels       {role: {class or position of the right option: number of questions}}
        duplicates   {"medical" and "general": see `find_duplicates`}
        end_of_turn  the text that ends a reply
        examples     one of each shape: {id, role, shape, tokens: [{id, text, trained}]}
        findings     what the user should look at, a sentence each

    Raises ICFTError as `check_fit` does.
    """
    config = config or ICFTConfig()
    found, roles = check_fit(data, config), _roles(data)
    encoder = _encoder(config)
    balances = {role: _label_balance(part) for role, part in roles.items()}
    found["labels"] = {role: dict(counts) for role, (counts, _) in balances.items() if counts}
    found["duplicates"] = {
        name: find_duplicates({role: part for role, part in roles.items() if role in names})
        for name, names in (("medical", MEDICAL_ROLES), ("general", GENERAL_ROLES))
        if any(role in names for role in roles)
    }
    found["end_of_turn"] = encoder.chat_format.end
    found["examples"] = _examples_by_shape(roles, encoder)
    positions = [f"{role}: {text}" for role, (_, texts) in balances.items() for text in texts]
    found["findings"] = [*_findings(found, encoder), *positions]
    return found


def find_duplicates(roles: Mapping[str, Examples]) -> Facts:
    """Return how many examples of the given roles are copies of others.

    Keys: exact (examples with the prompt and the responses of an earlier one), contradictory (those of them whose right
    response is another one), near (different prompts that nearly agree with an earlier one, see
    `overlap.near_duplicates`), overlap and near_overlap (validation and test examples whose prompt is that of a
    training example, or nearly), pairs (up to MAX_PAIRS of their ids with the training ids).
    """
    members: dict[str, list[tuple[bool, str]]] = defaultdict(list)  # prompt → (trained, id)
    copies: dict[tuple[str, ...], list[str]] = defaultdict(list)  # prompt and responses → right responses
    for role, part in roles.items():
        columns = iter_columns(part, "id", "responses", "label")
        for text, (name, responses, label) in zip(content_texts(part), columns, strict=True):
            members[text].append((role in TRAINED, name))
            copies[text, *sorted(responses)].append(responses[label] if label >= 0 else "")
    groups = list(members.values())
    near = near_duplicates(list(members))
    crossing = {"overlap": [pair for group in groups for pair in _crossing(group, group)]}
    crossing["near_overlap"] = [pair for i, j in near for pair in _crossing(groups[i], groups[j])]
    return dict(
        exact=sum(map(len, copies.values())) - len(copies),
        contradictory=sum(bool(one) and one != right[0] for right in copies.values() for one in right if right[0]),
        near=len({j for _, j in near}),
        **{name: len({held_out for held_out, _ in pairs}) for name, pairs in crossing.items()},
        pairs=[pair for pairs in crossing.values() for pair in pairs[:MAX_PAIRS]],
    )


def _roles(data: DataBundle) -> dict[str, Examples]:
    parts = ((role, getattr(data, role)) for role in (*MEDICAL_ROLES, *GENERAL_ROLES))
    return {role: part for role, part in parts if part is not None and len(part)}


def _encoder(config: ICFTConfig, max_length: int | None = None) -> Encoder:
    """Return an encoder that encodes every response with its own prompt."""
    limits = config.encoding
    return Encoder(load_tokenizer(config.model), max_length or limits.max_length, limits.letter_options, False)


def _fit(examples: Examples, encoder: Encoder, whole: Encoder, refused: list[str]) -> Facts:
    """Return the facts of one role. Messages about examples that cannot be encoded at all are added to `refused`."""
    tasks: Counter[str] = Counter()
    counts = dict(truncated=0, left_out=0)
    lengths = []
    for example in iter_examples(examples):
        tasks[example["task"]] += 1
        try:
            lengths.append(whole(example).length)
            if lengths[-1] > encoder.max_length:
                encoder(example)
                counts["truncated"] += 1
        except TooLong:
            counts["left_out"] += 1
        except ICFTError as error:
            refused.append(str(error))
    sizes = np.percentile(lengths or [0], (50, 95, 100)).round().astype(int).tolist()
    return dict(n=len(examples), tasks=dict(tasks), tokens=dict(zip(("median", "p95", "max"), sizes)), **counts)


def _label_balance(examples: Examples) -> tuple[Counter[str], list[str]]:
    """Return how often each class, or each position, is the right one, and what is striking about the positions.

    Classes are the responses that at least half of the questions have in common, such as yes, no and maybe.
    """
    questions = [
        (tuple(responses), label)
        for task, responses, label in iter_columns(examples, "task", "responses", "label")
        if task == "question" and label >= 0
    ]
    (classes, most), *_ = Counter(responses for responses, _ in questions).most_common(1) or [((), 0)]
    if most < max(2, len(questions) / 2):
        classes = ()
    places = [(responses, label) for responses, label in questions if responses != classes]
    counts = Counter(responses[label] for responses, label in questions if responses == classes)
    findings = []
    for place, count in sorted(Counter(label for _, label in places).items()):
        counts[f"option {place + 1}"] = count
        expected = sum(1 / len(responses) for responses, _ in places if len(responses) > place)
        if count > expected + IMBALANCE * expected**0.5:
            findings.append(
                f"the right option is number {place + 1} in {count} of {len(places)} questions, by chance it would be "
                f"in {expected:.0f}; with lettered options a model can learn the position"
            )
    return counts, findings


def _crossing(one: list[tuple[bool, str]], other: list[tuple[bool, str]]) -> list[tuple[str, str]]:
    """Return (held-out id, training id) of each held-out example whose prompt a training example of the other has."""
    pairs = []
    for first, second in ((one, other), (other, one)):
        trained = next((name for is_trained, name in first if is_trained), None)
        pairs += [(name, trained) for is_trained, name in second if trained and not is_trained]
    return list(dict.fromkeys(pairs))


def _examples_by_shape(roles: Mapping[str, Examples], encoder: Encoder) -> list[Facts]:
    """Return one example of each shape, with its tokens and the information which of them are trained on."""
    found: dict[str, Facts] = {}
    for role, part in roles.items():
        for example in iter_examples(part):
            extras = {"context": example["context"], "earlier turns": example["history"]}
            shape = " with ".join([example["task"], " and ".join(name for name, value in extras.items() if value)])
            shape = shape.removesuffix(" with ")
            if shape not in found:
                try:
                    found[shape] = dict(id=example["id"], role=role, shape=shape, tokens=_tokens(example, encoder))
                except ICFTError:
                    continue  # counted elsewhere; another example of this shape may fit
    return list(found.values())


def _tokens(example: Example, encoder: Encoder) -> list[Facts]:
    """Return the tokens of an example with its most likely response."""
    encoded = encoder(example)
    number = best_response(example)
    ids = encoded.sequences[number if len(encoded.sequences) > 1 else 0]
    trained = {place + 1 for sequence, place, target, response in encoded.tokens if response == number}
    return [
        dict(id=token, text=encoder.tokenizer.decode([token]), trained=place in trained)
        for place, token in enumerate(ids)
    ]


def _findings(found: Facts, encoder: Encoder) -> list[str]:
    findings = []
    for role, one in found["roles"].items():
        for name, text in (
            ("left_out", "are left out: they do not fit"),
            ("truncated", "lose a part of their context:"),
        ):
            if one[name]:
                findings.append(f"{one[name]} of {one['n']} {role} examples {text} max_length = {found['max_length']}")
    for name, one in found["duplicates"].items():
        if one["exact"]:
            findings.append(f"{one['exact']} {name} examples are copies of others")
        if one["contradictory"]:
            findings.append(f"{one['contradictory']} of these have another right answer than the first of their copies")
        for key, text in (("overlap", "have"), ("near_overlap", "nearly have")):
            if one[key]:
                findings.append(f"{one[key]} held-out {name} examples {text} the prompt of a training example")
        if one["pairs"]:
            findings.append("ids, held-out and training: " + "; ".join(", ".join(pair) for pair in one["pairs"]))
    ends = encoder.chat_format.end_of_turn_ids
    for example in found["examples"]:
        trained = [token["id"] for token in example["tokens"] if token["trained"]]
        if not ends or (not encoder.letter_options and trained[-len(ends) :] != ends):
            findings.append(f"example {example['id']}: its reply does not end with the end of turn")
        elif trained[-2 * len(ends) :] == 2 * ends:
            findings.append(f"example {example['id']}: its reply ends with two ends of turn")
    return findings
