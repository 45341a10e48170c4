"""The leaderboard of a capstone: one HTML file without scripts, which loads nothing."""

import html
from collections.abc import Sequence
from pathlib import Path

from icft_lite.grading.capstone import Capstone
from icft_lite.grading.capstone_grader import EntryResult, ranked
from icft_lite.utils.io import write_text

COLUMNS = ("rank", "entry", "gain over the reference", "domain score", "retention", "tokens", "reproduced")
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
caption { text-align: left; padding: .5rem 0; }
th, td { border-bottom: 1px solid #8888; padding: .4rem .6rem; text-align: right; vertical-align: top; }
td:not(:nth-child(2)) { white-space: nowrap; }
th:nth-child(2), td:nth-child(2) { text-align: left; overflow-wrap: anywhere; }
.reason { display: block; font-size: .85em; opacity: .85; }
"""


def write_leaderboard(path: Path | str, capstone: Capstone, results: Sequence[EntryResult]) -> None:
    """Write the page. Whatever comes from an entry is HTML-escaped."""
    write_text(path, leaderboard_page(capstone, results))


def leaderboard_page(capstone: Capstone, results: Sequence[EntryResult]) -> str:
    """Return the page: valid entries by falling gain, then the others with the reason."""
    title = html.escape(f"{capstone.id}: {capstone.title}")
    rows = "\n".join(_row(rank, one) for rank, one in ranked(results))
    head = "".join(f'<th scope="col">{name}</th>' for name in COLUMNS)
    protocol = html.escape(
        f"Base {capstone.base}, at most {capstone.max_tokens:,} tokens, retention of at least "
        f"{capstone.min_retention:g}. Gain: domain score minus that of the reference "
        f"({capstone.reference.get('method', 'icft')}, {len(capstone.reference_seeds)} seeds) on the same hidden "
        f"questions, with a 95 % paired bootstrap interval. An interval that contains 0 shows no difference. "
        f"Tokens are as logged by the student."
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{title}</h1>
<p>{protocol}</p>
<div class="wide">
<table>
<caption>{len(results)} entries, version {html.escape(capstone.version)} of the protocol</caption>
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
</div>
</body>
</html>
"""


def _row(rank: int | None, one: EntryResult) -> str:
    reason = f'<span class="reason">not valid: {html.escape(one.invalid)}</span>' if one.invalid else ""
    scores = [
        f"{one.gain:+.3f} [{one.low:+.3f}, {one.high:+.3f}]",
        f"{one.domain:.3f}",
        f"{one.retention:.3f} [{one.retention_low:.3f}, {one.retention_high:.3f}]",
        f"{one.tokens:,}",
        {None: "not tried", True: "yes", False: "no"}[one.reproduced],
    ]
    cells = [
        "–" if rank is None else str(rank),
        html.escape(one.name) + reason,
        *(scores if one.scored else ["–"] * len(scores)),
    ]
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
