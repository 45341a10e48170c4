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
    common_splits,
    difference,
    load_records,
    matched_retention,
    trained_point,
)
from icft_lite.experiments.paper.arms import STUDIES
from icft_lite.statistics import mean_interval

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
    found, data = medical.interval, STUDIES["tiny"].data(11)
    gains = [
        np.subtract(*(choose_point(records[arm][split])["test"]["medical"] for arm in ("icft", "kl_memory")))
        for split in records["icft"]
    ]
    corrected = mean_interval(gains, test_per_train=len(data.test) / (len(data.trusted) + len(data.pool)))
    learned = {arm: mean(arm, "medical") for arm in records}
    trained = {arm: mean(arm, "medical", trained_point) for arm in records}
    stated = [
        f"{mean('icft', 'retention'):.2f}, ICFT has a medical score of {learned['icft']:.3f}",
        f"has {learned['kl_memory']:.3f}: a difference of {found.mean:.3f} ({found.low:.3f} to {found.high:.3f};",
        f"{corrected.low:.3f} to {corrected.high:.3f} corrected for overlapping training data)",
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
    assert f"{scores[1]} for the best baseline (distillation from the base on memory), and {scores[2]} for" in line
    assert f"ICFT is {-preference.interval.mean:.2f} below plain QLoRA" in line


def test_the_page_states_what_the_runs_of_smollm2_show_so_far():
    records = load_records(RECORDS.parent / "smollm2", STUDIES["smollm2"].confirmation)
    text = PAGE.read_text(encoding="utf-8")
    prose = " ".join(
        text[text.index("### `smollm2`, confirmation") : text.index("<!-- smollm2-confirmation -->")].split()
    )
    base = trained_point(records["base"][10])

    def mean(arm, *keys, pick=trained_point):
        return [np.mean([pick(one)["test"][key] for one in records[arm].values()]) for key in keys]

    def least(record):
        return min(record["curve"], key=lambda point: point["alpha"])

    def matched(share):
        """Return the retention of plain LoRA, ICFT and replay at a share of plain LoRA's gain."""
        arms = {arm: common_splits(records, "base", "plain", arm) for arm in ("plain", "icft", "replay_25")}
        return [np.mean(matched_retention(records, arm, share, splits)) for arm, splits in arms.items()]

    def ratios(key):
        return [
            np.mean([trained_point(one)[part][key] / base[part][key] for one in records["icft"].values()])
            for part in ("validation", "test")
        ]

    icft, replay, plain = (mean(arm, "medical", "retention", "kl") for arm in ("icft", "replay_25", "plain"))
    half, most = matched(0.5), matched(0.9)
    stated = [
        "ICFT has a medical score of {:.3f} and retention of {:.3f}".format(*icft),
        "replay {:.3f} and {:.3f}, and plain LoRA".format(*replay),
        "plain LoRA {:.3f} and {:.3f}.".format(*plain),
        f"a KL of {icft[2]:.3f} against {replay[2]:.3f}",
        "With a quarter of its change it has {:.3f} and {:.3f}".format(
            *mean("plain", "medical", "retention", pick=least)
        ),
        "it retains {:.3f}, ICFT {:.3f} and replay {:.3f}".format(*half),
        f"the order is ICFT {most[1]:.3f}, replay {most[2]:.3f}, plain LoRA {most[0]:.3f}",
        "passes {:.2f} times as many of the 60 validation instructions as the base, but {:.2f} times".format(
            *ratios("instructions")
        ),
        "it answers {:.2f} and {:.2f} times as many".format(*ratios("free")),
    ]
    assert half[0] > half[1] and most[1] > most[2] > most[0] and icft[2] < replay[2]
    assert not [sentence for sentence in stated if sentence not in prose]
