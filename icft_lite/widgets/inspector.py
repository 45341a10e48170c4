"""Inspect the long-term memory: which examples were retained or promoted, which were not, and why."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as widgets
from IPython.display import HTML

from icft_lite.data.schema import Example, Examples, best_response
from icft_lite.memory.entries import MemoryEntry
from icft_lite.memory.long_term import LongTermMemory
from icft_lite.memory.promotion import is_confident
from icft_lite.widgets.table import html_table, pluralize

SORT_KEYS = ("surprise", "confidence", "replays")
COLUMNS = ("source", "topic", "prompt", "response", "surprise", "confidence", "replays", "quota", "reason")
"""Columns of the inspector's table, after `outcome`."""
RANDOM = "selected at random"
REASONS = {
    "surprise": "among the most surprising of its topic",
    "balanced": RANDOM,
    "ring": "among the newest",
    "reservoir": RANDOM,
    "herding": "close to the mean of its topic",
}
"""Why an entry was retained although there were more examples than places, by policy of the memory."""

Record = dict[str, Any]
"""`outcome` and COLUMNS of one example."""
Quotas = dict[tuple[str, str], int]
"""{(source, topic): number of places} where there were more examples than places."""


def promotion_outcomes(
    memory: LongTermMemory,
    examples: Examples = (),
    replays: Mapping[str, int] | None = None,
    min_confidence: float = 0.8,
) -> list[Record]:
    """Return a record for each example that a stage saw or that the memory contains, with its outcome and the reason.

    examples: canonical training examples; replays: {example id: number of replays}, of those that were replayed while
    they were in the ring; min_confidence: the confidence that a weakly labelled example needs for promotion.

    A record has `outcome` ("retained", "promoted", "not replayed", "label too uncertain", "no room"), `reason`, and
    the other COLUMNS. `quota` is the number of places of its source and topic; it is None where every example found a
    place. The confidence of a promoted example is None if the example is not among `examples`.
    """
    replays, stored = replays or {}, {entry.example["id"] for entry in memory.entries}
    records = [
        _rejected(example, replays.get(example["id"], 0), min_confidence)
        for example in examples
        if example["id"] not in stored
    ]
    quotas = _quotas(memory, records)
    for record in records:
        record["quota"] = quotas.get(("promoted", record["topic"])) if record["outcome"] == "no room" else None
    by_id = {example["id"]: example for example in examples}
    at_random = _reservoir_entries(memory, quotas)
    for entry in memory.entries:
        example_id, quota = entry.example["id"], quotas.get((entry.source, entry.example["topic"]))
        facts = _facts(by_id.get(example_id, entry.example), replays.get(example_id))
        if entry.source == "promoted" and example_id not in by_id:
            facts["confidence"] = None  # the memory does not store it
        if quota is None:
            reason = "there was room for every example of its topic"
        else:
            reason = RANDOM if id(entry) in at_random else REASONS[memory.policy]
        records.append(
            dict(
                outcome="promoted" if entry.source == "promoted" else "retained",
                source=entry.source,
                **facts,
                surprise=float(entry.surprise),
                quota=quota,
                reason=reason,
            )
        )
    return records


def _rejected(example: Example, replays: int, min_confidence: float) -> Record:
    """Return the record of an example that is not in the memory, without its quota."""
    if not replays:
        outcome, reason = "not replayed", "it left the ring with too few replays or none"
    elif not is_confident(example, min_confidence):
        outcome, reason = "label too uncertain", f"the largest entry of its posterior is below {min_confidence:g}"
    else:
        outcome, reason = "no room", "other examples of its topic were more surprising, or the memory was full"
    return dict(outcome=outcome, source="new", **_facts(example, replays), surprise=None, reason=reason)


def _facts(example: Example, replays: int | None) -> Record:
    return dict(
        topic=example["topic"],
        prompt=example["prompt"],
        response=example["responses"][best_response(example)],
        confidence=float(max(example["posterior"], default=1.0)),
        replays=replays,
    )


def _quotas(memory: LongTermMemory, rejected: Sequence[Record]) -> Quotas:
    """Return the places of each source and topic that had more examples than places."""
    places: Counter[tuple[str, str]] = Counter((entry.source, entry.example["topic"]) for entry in memory.entries)
    sources: Counter[str] = Counter(entry.source for entry in memory.entries)
    no_room = {record["topic"] for record in rejected if record["outcome"] == "no room"}

    def is_cut(source: str, topic: str) -> bool:
        if source == "promoted" and rejected:
            return topic in no_room
        # Earlier evictions are not recorded. Quotas are filled evenly from the smallest up (`policies.water_fill`), so
        # only the largest sources and topics of a full memory can have lost examples.
        largest = max(n for (other, _), n in places.items() if other == source)
        return (
            len(memory) >= memory.size
            and sources[source] >= max(sources.values()) - 1
            and places[source, topic] >= largest - 1
        )

    return {key: n for key, n in places.items() if is_cut(*key)}


def _reservoir_entries(memory: LongTermMemory, quotas: Quotas) -> set[int]:
    """Return id() of the entries in the reservoir share of their topic: those with the lowest random priorities."""
    found: set[int] = set()
    for (source, topic), quota in quotas.items() if memory.policy == "surprise" else ():
        entries = [entry for entry in memory.entries if (entry.source, entry.example["topic"]) == (source, topic)]
        in_reservoir = sorted(entries, key=_priority)[: round(memory.reservoir_share * quota)]
        found |= {id(entry) for entry in in_reservoir}
    return found


def _priority(entry: MemoryEntry) -> float:
    return entry.priority


def outcome_table(
    records: Sequence[Record], outcome: str = "all", source: str = "all", sort_by: str = "surprise", max_rows: int = 8
) -> HTML:
    """Return the first matching records as a table that needs no widgets.

    records: from `promotion_outcomes`; sort_by: one of SORT_KEYS, the largest value first.
    """
    return HTML(_table(records, outcome, source, sort_by, max_rows))


def memory_inspector(records: Sequence[Record], max_rows: int = 8) -> widgets.VBox:
    """Return lists of outcomes, sources and sort keys, and the matching records. records: from `promotion_outcomes`.

    The VBox has the children ((outcome, source, sort_by), table). By keyboard: Tab moves between the lists, Space opens
    one.
    """

    def values(name: str) -> list[str]:
        return ["all", *dict.fromkeys(record[name] for record in records)]

    outcome = widgets.Dropdown(options=values("outcome"), description="Outcome")
    source = widgets.Dropdown(options=values("source"), description="Source")
    sort_by = widgets.Dropdown(options=SORT_KEYS, description="Sort by")
    if "promoted" in outcome.options:
        outcome.value = "promoted"
    table = widgets.HTML()

    def update(_: Any = None) -> None:
        table.value = _table(records, outcome.value, source.value, sort_by.value, max_rows)

    for control in (outcome, source, sort_by):
        control.observe(update, "value")
    update()
    controls = widgets.HBox([outcome, source, sort_by], layout=widgets.Layout(flex_flow="row wrap"))
    return widgets.VBox([controls, table])


def _table(records: Sequence[Record], outcome: str, source: str, sort_by: str, max_rows: int) -> str:
    matching = [
        record for record in records if outcome in ("all", record["outcome"]) and source in ("all", record["source"])
    ]
    matching.sort(key=lambda record: -1.0 if record[sort_by] is None else record[sort_by], reverse=True)
    header = [*(["outcome"] if outcome == "all" else []), *COLUMNS]
    rows = [[record[name] for name in header] for record in matching[:max_rows]]
    return html_table(header, rows, f"{pluralize(matching)}; the first {len(rows)} by {sort_by}", "long-term memory")
