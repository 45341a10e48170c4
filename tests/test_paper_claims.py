"""Sentences of the documentation about the evidence study agree with its committed records."""

import math
from pathlib import Path

import numpy as np

import icft_lite
from icft_lite.experiments.paper.analysis import (
    choose_point,
    claim_medical,
    claim_preference,
    claim_retention,
    difference,
    load_records,
    matched_retention,
    trained_point,
)
from icft_lite.experiments.paper.arms import STUDIES

ROOT = Path(icft_lite.__file__).parents[1]
RECORDS = ROOT / "icft_lite" / "experiments" / "results" / "tiny"
PAGE = ROOT / "docs" / "results.md"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_and_the_results_page_state_what_the_records_say():
    records = load_records(RECORDS, STUDIES["tiny"].confirmation)
    text = PAGE.read_text(encoding="utf-8")
    prose = " ".join(text[text.index("### `tiny`, confirmation") : text.index("<!-- tiny-confirmation -->")].split())

    def mean(arm, key, pick=choose_point):
        return np.mean([pick(one)["test"][key] for one in records[arm].values()])

    medical, retention, preference = claim_medical(records), claim_retention(records), claim_preference(records)
    assert (medical.supported, retention.supported, preference.supported) == (True, False, False)
    assert medical.rival == "kl_memory" and math.isnan(retention.interval.mean)
    found = medical.interval
    learned = {arm: mean(arm, "medical") for arm in records}
    trained = {arm: mean(arm, "medical", trained_point) for arm in records}
    stated = [
        f"{mean('icft', 'retention'):.2f}, ICFT has a medical score of {learned['icft']:.3f}",
        f"has {learned['kl_memory']:.3f}: a difference of {found.mean:.3f} ({found.low:.3f} to {found.high:.3f})",
        f"retains as much, has {learned['replay_25']:.3f}, and plain QLoRA {learned['plain']:.3f}",
        "ICFT is {:.3f} below plain QLoRA ({:.3f} to {:.3f})".format(*(-preference.interval[i] for i in (0, 2, 1))),
        f"than ICFT: {trained['plain']:.3f} against {trained['icft']:.3f}",
        f"It retains {mean('plain', 'retention', trained_point):.3f} of",
    ]
    order = [
        difference(*([choose_point(records[arm][split])["test"][key] for split in records["icft"]] for arm in arms))
        for arms, key in ((("icft", "random"), "medical"), (("random", "icft"), "preference"))
    ]
    stated += [
        "ICFT has {:.3f} less at the chosen α ({:.3f} to {:.3f})".format(*order[0]),
        "changes preference accuracy by {:.3f} ({:.3f} to {:.3f})".format(*order[1]),
    ]
    assert mean("random", "medical") < mean("kl_memory", "medical")
    half = {arm: np.mean(matched_retention(records, arm, 0.5, sorted(records[arm]))) for arm in ("icft", "replay_25")}
    stated.append(f"ICFT retains {half['icft']:.3f} and replay {half['replay_25']:.3f}")
    assert not [sentence for sentence in stated if sentence not in prose]
    line = " ".join(README.split())
    scores = [f"{learned[arm]:.2f}" for arm in ("icft", "kl_memory", "replay_25")]
    assert f"at retention of {mean('icft', 'retention'):.2f} the medical score is {scores[0]} for ICFT" in line
    assert f"{scores[1]} for the best baseline (KL to the base on memory), and {scores[2]} for replay" in line
    assert f"ICFT is {-preference.interval.mean:.2f} below plain QLoRA" in line
