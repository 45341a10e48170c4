"""The demo: ICFT compared with plain fine-tuning, on `tiny` (minutes) or the chat model `smollm2` (half an hour)."""

from pathlib import Path
from typing import Any

from icft_lite.errors import ICFTError
from icft_lite.experiments.compare import compare
from icft_lite.experiments.settings import CHAT_DEMO, CHAT_FULL, CHAT_LOW_RATE, CHAT_QUICK, DEMO, DEMO_QLORA, FULL
from icft_lite.presets import PRESETS
from icft_lite.report_file import read_report
from icft_lite.reporting.render import print_table
from icft_lite.utils.io import write_json

ILLUSTRATION = "illustration, not evidence: one seed, few training tokens and few test items"
"""What the results of `--quick` are marked with."""


def run_demo(
    out: str | Path,
    seeds: int = 1,
    full: bool = False,
    jobs: int | None = None,
    progress: bool = True,
    model: str = "tiny",
    quick: bool = False,
) -> dict[str, Any]:
    """Run the demo: ICFT compared with plain fine-tuning.

    model: `tiny` or `smollm2`. With more than one seed, `tiny` compares every other method too. On `smollm2` replay is
    compared too, and the demo ends with the replies of all models to the same prompts. full: longer; on more topics
    with `tiny`, with a low learning rate and with self-generated prompts on `smollm2`. quick, on `smollm2`: fewer
    tokens and examples, without replay.
    Raises ICFTError for another model, or an option that the model does not have.
    """
    if model not in ("tiny", "smollm2"):
        raise ICFTError(f"--model {model}: the demo has settings for tiny and smollm2; use `icft-lite compare`")
    if quick and model == "tiny":
        raise ICFTError("--quick: only the demo of smollm2 has this option; add --model smollm2, or leave it out")
    if quick and full:
        raise ICFTError("--quick, --full: one excludes the other; leave one of them out")
    methods = list(PRESETS) if seeds > 1 else ["icft", "qlora"]
    own: dict[str, dict[str, Any]] = {}
    if model == "tiny":
        settings, own = (FULL, {}) if full else (DEMO, {"qlora": DEMO_QLORA})
    else:
        from icft_lite.modeling.smollm2 import smollm2_folder

        smollm2_folder()  # downloads and converts it before the runs start, so that it is not part of their time
        settings = CHAT_QUICK if quick else CHAT_FULL if full else CHAT_DEMO
        jobs = jobs or (1 if quick else None)  # plain LoRA takes a third of ICFT's time: half the cores would be idle
        methods = ["icft", "qlora"] if quick else ["icft", "qlora", "replay"]
        if full:
            methods, own = [*methods, "low_rate", "self_prompts"], {"low_rate": CHAT_LOW_RATE}
    comparison = compare(
        out,
        methods,
        range(seeds),
        settings,
        progress=progress,
        jobs=jobs,
        method_settings=own,
        notes=[ILLUSTRATION] if quick else [],
    )
    report = read_report(Path(out) / "icft-0")
    write_json(Path(out) / "report.json", {**report, "comparison": comparison})
    if progress:
        print_table(comparison)
        print(f"\nfigure: {Path(out) / 'comparison.png'}")
    return comparison
