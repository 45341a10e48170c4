"""The dashboard's drawing: panels of SVG, and two layouts of the same panels.

    Progress ── dashboard_rows ──▶ rows of Panels ──┬─ dashboard_html: HTML that adapts to the width of the page
                                                    └─ dashboard_svg:  one SVG document

The drawing needs no plotting library, so that a live redraw takes milliseconds. Its ink is `currentColor`: the color
of the page's text in HTML, dark on white in the SVG document.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

from icft_lite.reporting.style import GENERAL, GREY, INK, MEDICAL
from icft_lite.widgets.progress import SOURCES, Progress, Series
from icft_lite.widgets.table import escape

LOSSES = {
    "total": ("L_total", "weighted sum", "currentColor"),
    "consistency": ("L_consistency", "per memory token", "#0072b2"),
    "task": ("L_task", "nats per response token", "#009e73"),
    "fine_tune": ("L_fine-tune", "nats per response token", "#d55e00"),
    "loss": ("training loss", "as logged", "currentColor"),
    "eval_loss": ("evaluation loss", "as logged", "#0072b2"),
}
"""Title, unit and color of each loss."""
SOURCE_COLORS = {"general": "#0072b2", "self": "#56b4e9", "promoted": "#d55e00"}
ACCURACY_STYLES = {"general": (GENERAL, "circle"), "medical": (MEDICAL, "square")}
OTHER_STYLES = [("#009e73", "circle"), ("#cc79a7", "square"), ("#a67c00", "circle"), (GREY, "square")]
WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM = 220, 120, 46, 6, 18
"""Size of the drawing of a loss and its margins, in SVG units. Accuracy and memory are twice as wide."""
PAGE, MARGIN, GAP, HEADING = 940, 16, 14, 36
"""Width of the SVG document, its margin, the gap between panels, the height of a panel's title and note."""

Point = tuple[float, float]
"""(step or position, value)."""


@dataclass(frozen=True)
class Panel:
    """One part of the dashboard. Texts are plain and not escaped yet; `body` is SVG with escaped text."""

    title: str
    note: str = ""
    body: str = ""
    """SVG elements in the coordinates 0 to `width`, 0 to `height`; empty for a panel of text."""
    width: int = WIDTH
    height: int = 0
    description: str = ""
    """What the drawing shows, for screen readers and the text version."""


# ---------------------------------------------------------------- panels


def dashboard_rows(progress: Progress, logarithmic: bool = False, live: bool = True) -> list[list[Panel]]:
    """Return the panels of the dashboard by row.

    logarithmic: draw losses on a logarithmic scale; live: include throughput and time left.
    """
    losses = [_loss_panel(name, series, progress, logarithmic) for name, series in progress.losses.items()]
    rows = [[Panel(value, name) for name, value in facts(progress, live).items()], [_progress_bar(progress)]]
    if progress.title:
        rows.insert(0, [Panel(progress.title, width=4 * WIDTH)])
    if losses:
        legend = "Losses by optimizer step. Thin: means over windows of steps. Bold: running mean."
        rows += [losses, [Panel("", legend + " Dashed: a stage begins." * (len(progress.starts) > 1), width=4 * WIDTH)]]
    below = []
    if progress.accuracy:
        below.append(_accuracy_panel(progress))
    if progress.memory:
        below.append(_memory_panel(progress))
    return [*rows, below] if below else rows


def facts(progress: Progress, live: bool = True) -> dict[str, str]:
    """Return the tiles {name: value}: phase, stage, step, completed part and, if live, throughput and time left."""
    number, staged = progress.stage, len(progress.names) > 1
    tiles = {"phase": progress.phase or "–"}
    if staged:
        tiles["stage"] = f"{number} of {len(progress.names)}: {progress.names[number - 1]}" if number else "–"
    tiles["step"] = f"{progress.step:,} of {progress.steps:,}" if progress.steps else "–"
    tiles["completed"] = f"{100 * progress.done():.0f} %"
    if live:
        rate, left = progress.rate(), progress.seconds_left()
        tiles["throughput"] = "–" if rate is None else f"{rate:,.{0 if rate >= 10 else 1}f} {progress.unit}/s"
        # Before the end of the first stage nothing is known about the time that the end of a stage takes.
        bound = "at least" if staged and number <= 1 else "about"
        tiles["time left"] = "–" if left is None else f"{bound} {_duration(left)}"
    return tiles


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _progress_bar(progress: Progress) -> Panel:
    width, done = 4 * WIDTH, progress.done()
    body = (
        f'<rect x="0.5" y="0.5" width="{width - 1}" height="9" rx="3" fill="none" stroke="currentColor" opacity=".5"/>'
        f'<rect x="0.5" y="0.5" width="{(width - 1) * done:.1f}" height="9" rx="3" fill="{GENERAL}"/>'
    )
    return Panel("", "", body, width, 10, f"{100 * done:.0f} % completed")


def _loss_panel(name: str, series: Series, progress: Progress, logarithmic: bool) -> Panel:
    title, unit, color = LOSSES.get(name, (name, "", "currentColor"))
    now = series.now()
    note = "–" if now is None else f"{now:.3g} {unit}".rstrip() if math.isfinite(now) else f"not finite: {now}"
    points = [(step, math.log10(max(value, 1e-6)) if logarithmic else value) for step, value in series.points]
    body = _curve(points, progress.starts, color, logarithmic) if points else ""
    return Panel(title, note, body, WIDTH, HEIGHT, f"{title}, now {note}")


def _curve(points: Sequence[Point], starts: Sequence[int], color: str, logarithmic: bool) -> str:
    """Return the axes and the curve of a loss. On a logarithmic scale the values are exponents of 10."""
    last, mean = max(points[-1][0], 2), running_mean(points, starts)
    values = sorted(value for _, value in points)
    low = values[int(0.03 * len(values))] if logarithmic else 0.0
    # The running mean always fits the axis; a few single peaks above it are cut off, so that they do not flatten it.
    high = max(max(value for _, value in mean), values[int(0.97 * (len(values) - 1))], low + 1e-3)

    def position(step: float, value: float) -> Point:
        y = HEIGHT - BOTTOM - (HEIGHT - BOTTOM - 10) * (min(max(value, low), high) - low) / (high - low)
        return LEFT + (WIDTH - RIGHT - LEFT) * (step - 1) / (last - 1), y

    parts = [
        _grid_line(LEFT, WIDTH - RIGHT, position(1, value)[1], f"{10**value if logarithmic else value:.2g}")
        for value in (low, high)
    ]
    for start in starts[1:]:
        x = position(start + 0.5, low)[0]
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="8" y2="{HEIGHT - BOTTOM}" stroke="currentColor" opacity=".5" '
            'stroke-dasharray="3 3"/>'
        )
    parts += [_polyline(map(position, *zip(*points)), color, 1, 0.4), _polyline(map(position, *zip(*mean)), color)]
    if len(points) == 1:  # a line of one point is invisible
        parts.append(_marker(*position(*points[0]), color, "circle"))
    parts += [_text(LEFT, HEIGHT - 5, "step 1"), _text(WIDTH - RIGHT, HEIGHT - 5, f"{last:,}", anchor="end")]
    return "".join(parts)


def running_mean(points: Sequence[Point], starts: Sequence[int]) -> list[Point]:
    """Return the running mean of (step, value) over a twelfth of the points. It restarts with each stage.

    starts: for each stage the number of steps before it.
    """
    width, means, remaining = max(1, len(points) // 12), list[Point](), list(starts)
    recent: list[float] = []
    for step, value in points:
        while remaining and step > remaining[0]:
            recent, remaining = [], remaining[1:]
        recent = [*recent, value][-width:]
        means.append((step, sum(recent) / len(recent)))
    return means


def _accuracy_panel(progress: Progress) -> Panel:
    staged = len(progress.names) > 1
    labels = ["base", *progress.names] if staged else [str(entry["at"]) for entry in progress.accuracy]
    width, right, slots = 2 * WIDTH, 2 * WIDTH - 100, max(len(progress.accuracy), len(labels), 2)

    def position(at: float, value: float) -> Point:
        return 42 + (right - 42) * at / (slots - 1), HEIGHT - BOTTOM - (HEIGHT - BOTTOM - 10) * value

    parts, ends = [_grid_line(34, right, position(0, value)[1], f"{value:g}") for value in (0, 0.5, 1)], []
    for name, color, shape in _accuracy_styles(progress):
        values = [(at, entry[name]) for at, entry in enumerate(progress.accuracy) if _is_finite(entry.get(name))]
        if not values:
            continue
        points = [position(*value) for value in values]
        parts.append(_polyline(points, color))
        parts += [_marker(*point, color, shape) for point in points]
        ends.append((points[-1][1], points[-1][0], f"{name} {values[-1][1]:.2f}"))
        for candidate in progress.candidates:
            if _is_finite(candidate.get(name)):
                x, y = position(candidate["stage"] - 0.12, candidate[name])
                parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="none" stroke="{color}"/>')
    ends.sort()
    for y, (_, x, text) in zip(_spread([y + 3 for y, _, _ in ends], 12, 9, HEIGHT - BOTTOM), ends):
        parts.append(_text(x + 9, y, text, weight=600))
    for at in range(len(labels)) if len(labels) <= 6 else (0, len(labels) - 1):
        parts.append(_text(position(at, 0)[0], HEIGHT - 5, labels[at], anchor="middle"))
    note = "test set after each stage" if staged else "as evaluated"
    if progress.candidates:
        note += "; hollow: line search candidates, validation set"
    description = "Accuracy: " + ", ".join(text for _, _, text in ends)
    return Panel("Accuracy (0–1)", note, "".join(parts), width, HEIGHT, description)


def _spread(positions: Sequence[float], gap: float, top: float, bottom: float) -> list[float]:
    """Move sorted positions apart by at least `gap`, between `top` and `bottom` if there is room."""
    spread: list[float] = []
    for y in positions:
        spread.append(max(y, spread[-1] + gap if spread else top))
    limit = bottom
    for i in reversed(range(len(spread))):
        spread[i] = min(spread[i], limit)
        limit = spread[i] - gap
    return spread


def _accuracy_styles(progress: Progress) -> Iterator[tuple[str, str, str]]:
    """Yield (name, color, shape) of each score."""
    others = cycle(OTHER_STYLES)
    for name in dict.fromkeys(name for entry in progress.accuracy for name in entry if name != "at"):
        yield name, *(ACCURACY_STYLES.get(name) or next(others))


def _memory_panel(progress: Progress) -> Panel:
    total = sum(progress.memory.values())
    width, capacity, x, parts = 2 * WIDTH - 12, max(progress.capacity, total, 1), 0.0, []
    order = [*SOURCES, *progress.memory]
    for at, source in enumerate(sorted(progress.memory, key=order.index)):
        n, color = progress.memory[source], SOURCE_COLORS.get(source, GREY)
        part = width * n / capacity
        parts.append(
            f'<rect x="{x:.1f}" y="12" width="{max(part - 1.5, 0.5):.1f}" height="24" fill="{color}"/>'
            f'<rect x="0" y="{52 + 18 * at}" width="10" height="10" fill="{color}"/>'
            + _text(16, 61 + 18 * at, f"{n:,} {SOURCES.get(source, source)}")
        )
        x += part
    parts.append(f'<rect x="0.5" y="12" width="{width}" height="24" fill="none" stroke="currentColor" opacity=".6"/>')
    note = f"{total:,} of {capacity:,} examples, {100 * total / capacity:.0f} % full"
    return Panel("Long-term memory", note, "".join(parts), 2 * WIDTH, HEIGHT, f"Long-term memory: {note}")


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


# ---------------------------------------------------------------- SVG elements


def _text(x: float, y: float, text: str, anchor: str = "start", weight: int = 400) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{escape(text)}</text>'


def _grid_line(left: float, right: float, y: float, label: str) -> str:
    line = f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" opacity=".25"/>'
    return line + _text(left - 4, y + 3, label, anchor="end")


def _polyline(points: Iterator[Point] | Sequence[Point], color: str, width: float = 2.2, opacity: float = 1) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width}" opacity="{opacity}"/>'


def _marker(x: float, y: float, color: str, shape: str) -> str:
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}"/>'
    return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{color}"/>'


def _drawing(panel: Panel, attributes: str) -> str:
    """Return the <svg> element of a panel. It clips what lies outside the panel."""
    return (
        f'<svg viewBox="0 0 {panel.width} {panel.height}" {attributes} font-family="sans-serif" font-size="10" '
        f'fill="currentColor">{panel.body}</svg>'
    )


# ---------------------------------------------------------------- layouts


def dashboard_html(progress: Progress, logarithmic: bool = False) -> str:
    """Return the live dashboard as HTML, in which panels wrap to the width of the page."""
    style = "display:flex;flex-wrap:wrap;gap:4px 16px;margin-bottom:6px"
    rows = (
        f'<div style="{style}">{"".join(map(_html_panel, row))}</div>' for row in dashboard_rows(progress, logarithmic)
    )
    return f'<div style="max-width:{PAGE}px;line-height:1.4">{"".join(rows)}</div>'


def _html_panel(panel: Panel) -> str:
    size = "min-width:90px"
    drawing = ""
    if panel.height:
        size = f"flex:{panel.width} 1 {0.77 * panel.width:.0f}px;max-width:{1.36 * panel.width:.0f}px"
        label = escape(panel.description)
        drawing = _drawing(panel, f'width="100%" style="display:block" role="img" aria-label="{label}"')
    title = f'<div style="font-weight:600">{escape(panel.title)}</div>' if panel.title else ""
    note = f'<div style="opacity:.75;font-size:12px">{escape(panel.note)}</div>' if panel.note else ""
    return f'<div style="{size}">{title}{note}{drawing}</div>'


def dashboard_svg(progress: Progress) -> str:
    """Return the dashboard as one SVG document: dark on white, without times, equal for equal progress."""
    rows = dashboard_rows(progress, live=False)
    parts, y = [], float(MARGIN)
    for row in rows:
        gaps = GAP * (len(row) - 1)
        scale = min(1.36, (PAGE - 2 * MARGIN - gaps) / sum(panel.width for panel in row))
        x = float(MARGIN)
        for panel in row:
            parts.append(_svg_panel(panel, x, y, scale))
            x += panel.width * scale + GAP
        y += max(_heading(panel) + panel.height * scale for panel in row) + GAP
    height = math.ceil(y - GAP + MARGIN)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{PAGE}" height="{height}" viewBox="0 0 {PAGE} {height}" '
        f'role="img" color="{INK}" fill="currentColor" font-family="sans-serif">'
        f"<title>Training dashboard</title><desc>{escape(dashboard_text(progress))}</desc>"
        f'<rect width="{PAGE}" height="{height}" fill="white"/>{"".join(parts)}</svg>'
    )


def _heading(panel: Panel) -> float:
    return HEADING * (bool(panel.title) + bool(panel.note)) / 2


def _svg_panel(panel: Panel, x: float, y: float, scale: float) -> str:
    width, at, parts = panel.width * scale, y, []
    for text, size, style in ((panel.title, 13, 'font-weight="600"'), (panel.note, 11, 'opacity=".75"')):
        if text:
            limit = int(width / (0.55 * size))  # SVG does not wrap text: a character is about half as wide as high
            shown = text if len(text) <= limit else f"{text[: limit - 1]}…"
            parts.append(f'<text x="{x:.1f}" y="{at + 13:.1f}" font-size="{size}" {style}>{escape(shown)}</text>')
            at += HEADING / 2
    if panel.height:
        box = f'width="{width:.1f}" height="{panel.height * scale:.1f}"'
        parts.append(_drawing(panel, f'x="{x:.1f}" y="{at:.1f}" {box}'))
    return "".join(parts)


def dashboard_text(progress: Progress) -> str:
    """Return the dashboard as text: the tiles, then a line for each drawing."""
    tiles = [f"{name}: {value}" for name, value in facts(progress, live=False).items()]
    panels = [panel for row in dashboard_rows(progress, live=False) for panel in row]
    drawn = [panel.description for panel in panels if panel.title and panel.description]
    return "\n".join([progress.title] * bool(progress.title) + [" · ".join(tiles), *drawn])
