"""A training's progress as SVG, for the live dashboard: fast to make, and text takes the colour of the theme."""

import html
import math

from icft_lite.reporting.figures import GENERAL, MEDICAL
from icft_lite.widgets.progress import SOURCES

LOSSES = {
    "total": ("L_total", "weighted sum", "currentColor"),
    "consistency": ("L_consistency", "per response token", "#0072b2"),
    "task": ("L_task", "nats per token", "#009e73"),
    "fine_tune": ("L_fine-tune", "nats per token", "#d55e00"),
    "loss": ("training loss", "as logged", "currentColor"),
    "eval_loss": ("evaluation loss", "as logged", "#0072b2"),
}
"""Each loss's title, unit and colour."""
FILLS = {"general": "#0072b2", "self": "#56b4e9", "promoted": "#d55e00", "rows": "#6f6f6f"}
LINES = {"general": (GENERAL, "o"), "medical": (MEDICAL, "s")}
OTHERS = [("#009e73", "^"), ("#cc79a7", "D"), ("#a67c00", "v"), ("#6f6f6f", "X")]
WIDE, HIGH, LEFT = 220, 120, 46
"""Of a small drawing, in its own units."""


def dashboard_html(progress, logarithmic=False):
    """All of it as HTML. Text takes the page's colour; whatever a name holds is escaped."""
    losses = [_loss(name, series, progress, logarithmic) for name, series in progress.losses.items()]
    rest = [part for part in (_accuracy(progress), _memory(progress)) if part]
    rows = "".join(
        f'<div style="display:flex;flex-wrap:wrap;gap:4px 12px">{"".join(row)}</div>' for row in (losses, rest) if row
    )
    return f'<div style="max-width:940px;line-height:1.4">{_head(progress)}{rows}</div>'


def _head(progress):
    done = progress.done()
    bar = (
        f'<progress max="1" value="{done:.4f}" aria-label="share of the training that is done" '
        'style="width:100%"></progress>'
    )
    tiles = "".join(
        f'<div style="min-width:90px"><div style="opacity:.75;font-size:12px">{name}</div>'
        f'<div style="font-size:16px;font-weight:600">{html.escape(text)}</div></div>'
        for name, text in facts(progress).items()
    )
    return f'<div style="display:flex;flex-wrap:wrap;gap:4px 24px;margin-bottom:6px">{tiles}</div>{bar}'


def facts(progress):
    """{name: text}: the stage, the step, the rate, the time left."""
    rate, left, many = progress.rate(), progress.seconds_left(), len(progress.names) > 1
    at = progress.stage
    stage = f"{at} of {len(progress.names)}: {progress.names[at - 1]}" if at else "–"
    early = many and at <= 1  # no stage's end has been seen yet: it takes time too
    return {
        "doing": progress.phase or "–",
        **({"stage": stage} if many else {}),
        "step": f"{progress.step:,} of {progress.steps:,}" if progress.steps else "–",
        "done": f"{100 * progress.done():.0f} %",
        "rate": "–"
        if rate is None
        else f"{rate:,.0f} {progress.unit}/s"
        if rate >= 10
        else f"{rate:.1f} {progress.unit}/s",
        "time left": "–" if left is None else f"{'at least' if early else 'about'} {_duration(left)}",
    }


def _duration(seconds):
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _svg(title, note, body, describe, grow=1):
    label = html.escape(describe, quote=True)
    return (
        f'<div style="flex:{grow} 1 {170 * grow}px;max-width:{300 * grow}px">'
        f'<div style="font-weight:600">{html.escape(title)}</div>'
        f'<div style="opacity:.75;font-size:12px">{html.escape(note)}</div>'
        f'<svg viewBox="0 0 {WIDE * grow} {HIGH}" width="100%" role="img" aria-label="{label}" '
        f'font-family="sans-serif" font-size="10" fill="currentColor">{body}</svg></div>'
    )


def _loss(name, series, progress, logarithmic):
    title, unit, colour = LOSSES.get(name, (name, "", "currentColor"))
    now = series.now()
    note = "–" if now is None else f"{now:.3g} {unit}" if math.isfinite(now) else f"not a number: {now}"
    points = [(step, math.log10(max(value, 1e-6)) if logarithmic else value) for step, value in series.points]
    return _svg(title, note, _curve(points, progress, colour, logarithmic), f"{title}, now {note}")


def _curve(points, progress, colour, logarithmic):
    """Thin: window means; bold: their running mean; dashed: stages begin."""
    if not points:
        return ""
    last, mean = max(points[-1][0], 2), running(points, progress.starts)
    values = sorted(value for _, value in points)
    low = values[int(0.03 * len(values))] if logarithmic else 0.0
    top = max(max(value for _, value in mean), values[int(0.97 * (len(values) - 1))], low + 1e-3)

    def place(step, value):
        y = HIGH - 18 - (HIGH - 28) * (min(max(value, low), top) - low) / (top - low)
        return f"{LEFT + (WIDE - 6 - LEFT) * (step - 1) / (last - 1):.1f},{y:.1f}"

    marks = []
    for value in (low, top):
        y = float(place(1, value).split(",")[1])
        shown = 10**value if logarithmic else value
        marks.append(
            f'<line x1="{LEFT}" x2="{WIDE - 6}" y1="{y}" y2="{y}" stroke="currentColor" opacity=".25"/>'
            f'<text x="{LEFT - 4}" y="{y + 3}" text-anchor="end">{shown:.2g}</text>'
        )
    for start in progress.starts[1:]:
        x = place(start + 0.5, low).split(",")[0]
        marks.append(
            f'<line x1="{x}" x2="{x}" y1="8" y2="{HIGH - 18}" stroke="currentColor" opacity=".5" '
            'stroke-dasharray="3 3"/>'
        )
    lines = [
        f'<polyline points="{" ".join(place(*point) for point in some)}" fill="none" stroke="{colour}" '
        f'stroke-width="{width}" opacity="{opacity}"/>'
        for some, width, opacity in ((points, 1, 0.4), (mean, 2.2, 1))
    ]
    ends = (
        f'<text x="{LEFT}" y="{HIGH - 5}">step 1</text>'
        f'<text x="{WIDE - 6}" y="{HIGH - 5}" text-anchor="end">{last:,}</text>'
    )
    return "".join(marks + lines) + ends


def running(points, starts):
    """Running mean of (step, value) over a twelfth of them; it begins anew after each of the steps `starts`."""
    width, out, recent, starts = max(1, len(points) // 12), [], [], list(starts)
    for step, value in points:
        while starts and step > starts[0]:
            recent, starts = [], starts[1:]
        recent = [*recent, value][-width:]
        out.append((step, sum(recent) / len(recent)))
    return out


def curves(progress):
    """{name: (colour, marker, [(place, value)])} of all accuracies; places are 0, 1, … as measured."""
    names, spare = list(dict.fromkeys(key for row in progress.accuracy for key in row if key != "at")), iter(OTHERS * 9)
    styles = {name: LINES.get(name) or next(spare) for name in names}
    return {
        name: (*styles[name], [(i, row[name]) for i, row in enumerate(progress.accuracy) if row.get(name) is not None])
        for name in names
    }


def _accuracy(progress):
    if not progress.accuracy:
        return ""
    grow, slots = 2, max(len(progress.accuracy), len(progress.names) + 1 if len(progress.names) > 1 else 2)
    right = WIDE * grow - 100

    def place(at, value):
        return 42 + (right - 42) * at / (slots - 1), HIGH - 18 - (HIGH - 28) * value

    body = []
    for value in (0, 0.5, 1):
        y = place(0, value)[1]
        body.append(
            f'<line x1="34" x2="{right}" y1="{y}" y2="{y}" stroke="currentColor" opacity=".25"/>'
            f'<text x="30" y="{y + 3}" text-anchor="end">{value}</text>'
        )
    ends = []
    for name, (colour, marker, values) in curves(progress).items():
        places = [place(*value) for value in values]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        body.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.2"/>')
        body += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
            if marker == "o"
            else f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{colour}"/>'
            for x, y in places
        ]
        ends += [(places[-1][1], places[-1][0], f"{name} {values[-1][1]:.2f}")] if places else []
        for point in progress.points:
            if name in point:
                x, y = place(point["stage"] - 0.12, point[name])
                body.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="none" stroke="{colour}"/>')
    lowest = HIGH
    for y, x, text in sorted(ends, reverse=True):  # from the bottom up, so that names do not lie on each other
        lowest = min(y - 4, lowest - 12)
        body.append(f'<text x="{x + 9:.1f}" y="{lowest:.1f}" font-weight="600">{html.escape(text)}</text>')
    labels = [str(row["at"]) for row in progress.accuracy]
    if len(progress.names) > 1:
        labels = ["base", *progress.names]
    shown = range(len(labels)) if len(labels) <= 6 else (0, len(labels) - 1)
    body += [
        f'<text x="{place(i, 0)[0]:.1f}" y="{HIGH - 5}" text-anchor="middle">{html.escape(labels[i])}</text>'
        for i in shown
    ]
    note = (
        "test, after each stage; hollow: points tried at its end, validation"
        if len(progress.names) > 1
        else "as evaluated"
    )
    return _svg("Accuracy (0–1)", note, "".join(body), "Accuracy: " + ", ".join(text for _, _, text in ends), grow)


def sources(progress):
    """[(source, rows)]: given, made up, promoted, then any other."""
    return sorted(progress.memory.items(), key=lambda item: [*SOURCES, item[0]].index(item[0]))


def _memory(progress):
    rows = sum(progress.memory.values())
    if not rows:
        return ""
    grow, room, x, body = 2, max(progress.room, rows), 0.0, []
    wide = WIDE * grow - 12
    for at, (source, n) in enumerate(sources(progress)):
        colour, width = FILLS.get(source, "#6f6f6f"), wide * n / room
        body.append(
            f'<rect x="{x:.1f}" y="12" width="{max(width - 1.5, 0.5):.1f}" height="24" fill="{colour}"/>'
            f'<rect x="0" y="{52 + 18 * at}" width="10" height="10" fill="{colour}"/>'
            f'<text x="16" y="{61 + 18 * at}">{n:,} {html.escape(SOURCES.get(source, source))}</text>'
        )
        x += width
    body.append(f'<rect x="0.5" y="12" width="{wide}" height="24" fill="none" stroke="currentColor" opacity=".6"/>')
    note = f"{rows:,} of {room:,} rows, {100 * rows / room:.0f} % full"
    return _svg("Long-term memory", note, "".join(body), f"Long-term memory: {note}", grow)
