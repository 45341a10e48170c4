"""Draw the figures of docs/ that come from committed results.

Run `python scripts/draw_results.py`. It writes docs/ablations.png, from the study of lesson 09.
"""

from pathlib import Path
from typing import Any

from icft_lite.experiments.compare import mean_and_range
from icft_lite.experiments.study import load_study
from icft_lite.reporting.figures import comparison_figure
from icft_lite.reporting.style import png
from icft_lite.utils.io import write_bytes

DOCS = Path(__file__).parents[1] / "docs"


def study_comparison(study: dict[str, Any]) -> dict[str, Any]:
    """Return a study in the form of a comparison, as `reporting.figures.comparison_figure` draws it."""
    methods: dict[str, Any] = {}
    for method in dict.fromkeys(run["method"] for run in study["runs"]):
        runs = [run for run in study["runs"] if run["method"] == method]
        methods[method] = {key: mean_and_range(run[key] for run in runs) for key in ("medical", "retention", "general")}
    seeds = sorted({run["seed"] for run in study["runs"]})
    questions = {name: len(study["tests"][name]["topic"]) for name in ("general", "medical")}
    base = {name: study["base"][name] for name in ("medical", "general")}
    return dict(methods=methods, seeds=seeds, base=base, num_questions=questions)


if __name__ == "__main__":
    write_bytes(DOCS / "ablations.png", png(comparison_figure(study_comparison(load_study()))))
