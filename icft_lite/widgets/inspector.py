"""Look into the long-term memory: what is kept, what was promoted, what was not, and why."""

from collections import Counter

import ipywidgets as widgets
from IPython.display import HTML

from icft_lite.data.schema import best_response
from icft_lite.memory.long_term import is_confident
from icft_lite.widgets.table import html_table, pluralize

ORDERS = ("surprise", "confidence", "replays")
COLUMNS = ("source", "topic", "prompt", "response", "surprise", "confidence", "replays", "quota", "why")


def promotion_outcomes(memory, rows=(), replays=None, least=0.8):
    """What became of every row in a memory, and of every row that a stage saw: a list of dicts.

    memory: LongTermMemory; rows: canonical training rows; replays: {row id: times}, of those that were replayed
    while in the ring; least: the confidence a weak row needs. Each dict has `fate` ("kept", "promoted",
    "not replayed", "label too unsure", "no room"), `why`, and COLUMNS. `quota` is the places of its source and
    topic, where there were more rows than places; None where all found room. A promoted row's confidence is None if
    it is not among `rows`."""
    replays, stored = replays or {}, {entry.example["id"] for entry in memory.entries}
    out = []
    for row in rows:
        if row["id"] not in stored:
            out.append(_left_out(row, replays.get(row["id"], 0), least))
    places = Counter((entry.source, entry.example["topic"]) for entry in memory.entries)
    quotas = {key: n for key, n in places.items() if _cut(memory, places, *key, out)}
    for record in out:
        record["quota"] = quotas.get(("promoted", record["topic"])) if record["fate"] == "no room" else None
    labels = {row["id"]: row for row in rows}
    by_lot = _by_lot(memory, quotas)
    for entry in memory.entries:
        quota = quotas.get((entry.source, entry.example["topic"]))
        why = (
            "there was room for all of its topic"
            if quota is None
            else "drawn by lot"
            if id(entry) in by_lot
            else _REASONS[memory.policy]
        )
        told = _told(labels.get(entry.example["id"], entry.example), replays.get(entry.example["id"]))
        if entry.source == "promoted" and entry.example["id"] not in labels:
            told["confidence"] = None  # a memory does not store it
        out.append(
            dict(
                fate="promoted" if entry.source == "promoted" else "kept",
                source=entry.source,
                **told,
                surprise=float(entry.surprise),
                quota=quota,
                why=why,
            )
        )
    return out


_REASONS = {
    "surprise": "among the most surprising of its topic",
    "balanced": "drawn by lot",
    "ring": "among the newest",
    "reservoir": "drawn by lot",
    "herding": "near its topic's mean",
}


def _left_out(row, replays, least):
    if not replays:
        fate, why = "not replayed", "it left the ring with too few replays, or none"
    elif not is_confident(row, least):
        fate, why = "label too unsure", f"its posterior stays below {least:g}"
    else:
        fate, why = "no room", "others of its topic surprised more, or the memory's shares were full"
    return dict(fate=fate, source="new", **_told(row, replays), surprise=None, why=why)


def _told(row, replays):
    return dict(
        topic=row["topic"],
        prompt=row["prompt"],
        response=row["responses"][best_response(row)],
        confidence=float(max(row["posterior"], default=1.0)),
        replays=replays,
    )


def _cut(memory, places, source, topic, left_out):
    """Were there more rows of this source and topic than places?"""
    if source == "promoted" and left_out:
        return any(record["fate"] == "no room" and record["topic"] == topic for record in left_out)
    # Who left earlier is not on record. Shares are filled like water, so only the highest columns were cut.
    sources = Counter(entry.source for entry in memory.entries)
    topics = [n for (other, _), n in places.items() if other == source]
    return (
        len(memory) >= memory.size
        and sources[source] >= max(sources.values()) - 1
        and places[source, topic] >= max(topics) - 1
    )


def _by_lot(memory, quotas):
    """ids of the entries that hold their topic's reservoir share: those with its lowest lots."""
    found = set()
    for (source, topic), quota in quotas.items() if memory.policy == "surprise" else ():
        mine = [entry for entry in memory.entries if (entry.source, entry.example["topic"]) == (source, topic)]
        lucky = round(memory.reservoir_share * quota)
        found |= {id(entry) for entry in sorted(mine, key=lambda entry: entry.priority)[:lucky]}
    return found


def outcome_table(records, fate="all", source="all", order="surprise", most=8):
    """The first records that fit, as a table that needs no widgets: an IPython.display.HTML. records: of `fates`."""
    return HTML(_table(records, fate, source, order, most))


def memory_inspector(records, most=8):
    """Lists of fates, sources and orders, and the records they choose. records: of `fates`.

    Returns a VBox with children ((fate, source, order), table). By keyboard: Tab moves, Space opens a list."""
    fate = widgets.Dropdown(options=["all", *dict.fromkeys(record["fate"] for record in records)], description="Fate")
    source = widgets.Dropdown(
        options=["all", *dict.fromkeys(record["source"] for record in records)], description="Source"
    )
    order = widgets.Dropdown(options=ORDERS, description="Order by")
    if "promoted" in fate.options:
        fate.value = "promoted"
    shown = widgets.HTML()

    def update(_=None):
        shown.value = _table(records, fate.value, source.value, order.value, most)

    for control in (fate, source, order):
        control.observe(update, "value")
    update()
    return widgets.VBox([widgets.HBox([fate, source, order], layout=widgets.Layout(flex_flow="row wrap")), shown])


def _table(records, fate, source, order, most):
    chosen = [record for record in records if fate in ("all", record["fate"]) and source in ("all", record["source"])]
    chosen.sort(key=lambda record: -1.0 if record[order] is None else record[order], reverse=True)
    first = ["fate"] if fate == "all" else []
    lines = [[record[name] for name in (*first, *COLUMNS)] for record in chosen[:most]]
    return html_table([*first, *COLUMNS], lines, f"{pluralize(chosen)}; the first {len(lines)} by {order}")
