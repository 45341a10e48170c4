"""Lesson 09: what it builds by hand is right, its words follow the evidence, its exercises judge."""

import math

import numpy as np
import pandas as pd
import pytest
from lesson_checks import check_core_exercise, check_size
from scipy import stats
from test_notebooks import build, cells, check_exercise, checked, defined, from_scratch, notebook

from icft_lite import ICFTConfig, ICFTError
from icft_lite.experiments.paper import analysis, questions, tables
from icft_lite.experiments.paper.studies import STUDIES
from icft_lite.experiments.study import STUDY
from icft_lite.reporting.concepts import claims as diagram
from icft_lite.reporting.lessons import does_it_work as plots
from icft_lite.statistics import holm, mcnemar_exact, mean_interval
from icft_lite.utils.config_parsing import flatten

SOURCE = build.HERE / "src" / "09_does_it_work.py"
BOOK = build.read(SOURCE)
LIVE = ("train_icft({", "read_record(folder", "load_run(folder", "lowest.values()")
"""Marks of the cells of the live ablation."""


@pytest.fixture(scope="module")
def built():
    """What the lesson builds by hand."""
    return from_scratch(BOOK, np=np, math=math, stats=stats)


@pytest.fixture(scope="module")
def lesson():
    """All that the lesson defines without the live ablation."""
    return defined(BOOK, LIVE)


def test_it_has_the_size_of_a_lesson():
    check_size(BOOK)


# --- statistics by hand


def test_power_is_what_the_formula_says(built):
    n, d = 600, 0.2
    gain = built["visible"](d, n)
    draws = np.random.default_rng(1).choice([1, -1, 0], (400, n), p=[(d + gain) / 2, (d - gain) / 2, 1 - d])
    power = np.mean([mcnemar_exact(x > 0, x < 0) < 0.05 for x in draws])
    assert 0.7 < power < 0.88


def test_only_the_right_analysis_is_right_about_equal_methods(built):
    suits = built["alarms"](built["worlds"](count=600, n=200))
    luck = built["alarms"](built["worlds"](suits=0.3, luck=0.4, count=600, n=200))
    assert suits["questions, seeds averaged"] == pytest.approx(0.05, abs=0.03)
    assert luck["questions, seeds averaged"] > 0.15 > 0.1 > luck["seeds, questions averaged"]
    assert suits["pairs: seeds × questions as independent"] > suits["questions, seeds averaged"]
    assert max(suits["both of the last two"], luck["both of the last two"]) < 0.08


def test_words_follow_the_intervals(built):
    verdict = built["verdict"]
    assert verdict(0.9, 0.05, 0.5, 1.0) == "no difference measured"
    assert verdict(0.9, math.nan, 0.5, 1.0) == "no difference measured"
    assert verdict(-0.1, 0.01, -0.2, -0.05) == "clear: ICFT lower"
    assert verdict(0.1, 0.01, -0.2, 0.3) == "these runs only: ICFT higher"
    assert verdict(0.1, 0.01, math.nan, math.nan) == "these runs only: ICFT higher", "one seed gives no interval"


# --- its sentences say what the records say


def study_says(lesson, test, method):
    found = lesson["results"].set_index(["test", "method"]).loc[(test, method)]
    return found.verdict


def claims_of(records):
    return dict(
        a=analysis.claim_medical(records), b=analysis.claim_retention(records), c=analysis.claim_preference(records)
    )


def over_splits(records, method, key, at=analysis.trained_point):
    """ICFT minus a method on each split."""
    splits = STUDIES["tiny"].confirmation
    ours, theirs = ([at(records[arm][split])["test"][key] for split in splits] for arm in ("icft", method))
    return np.subtract(ours, theirs)


def matched_retention(records, split):
    """ICFT's retention where it has learned the share of plain fine-tuning's gain that claim (b) names."""
    base, plain = (analysis.trained_point(records[arm][split])["test"]["medical"] for arm in ("base", "plain"))
    score = base + analysis.MATCHED_GAIN * (plain - base)
    return analysis.retention_at(records["icft"][split], records["base"][split], score)


def corrected_p(records):
    """Return {ablation: p of the medical difference, corrected for shared training data and by Holm}."""
    table = tables.ablation_table(records, STUDIES["tiny"].test_per_train())
    return {row[0]: round(row[-1], 2) for row in table.rows}


def steps(records, arm):
    return np.mean([sum(stage["steps"] for stage in run["stages"]) for run in records[arm].values()])


CONFIRMED = {
    "**(a) is supported.**": lambda r: claims_of(r)["a"].supported,
    "is distillation from the base on memory": lambda r: claims_of(r)["a"].rival == "kl_memory",
    "medical score is higher on every split": lambda r: (
        over_splits(r, "kl_memory", "medical", analysis.choose_point).min() > 0
    ),
    "**(b) is not supported.**": lambda r: not claims_of(r)["b"].supported,
    "On no split does ICFT reach 90 %": lambda r: all(np.isnan(matched_retention(r, split)) for split in r["icft"]),
    "**(c) is not supported.**": lambda r: not claims_of(r)["c"].supported,
    "ICFT is worse at preferences": lambda r: claims_of(r)["c"].interval.high < 0,
    "two of three did": lambda r: sum(not claim.supported for claim in claims_of(r).values()) == 2,
    "Plain fine-tuning must be scaled down so far that almost nothing is left": lambda r: all(
        analysis.choose_point(run)["test"]["medical"] < 0.05 for run in r["plain"].values()
    ),
    "on most splits distillation on memory just misses 0.95 on validation, so it is scaled to α = 0.9": lambda r: (
        sum(
            0.92 < analysis.trained_point(run)["validation"]["retention"] < 0.95
            and analysis.choose_point(run)["alpha"] == 0.9
            for run in r["kl_memory"].values()
        )
        > len(r["kl_memory"]) / 2
    ),
    "About half of (a)'s difference comes from the rule": lambda r: (
        0.4 < over_splits(r, "kl_memory", "medical").mean() / claims_of(r)["a"].interval.mean < 0.6
    ),
    "As trained, both retain about 0.95": lambda r: all(
        abs(np.mean([analysis.trained_point(run)["test"]["retention"] for run in r[arm].values()]) - 0.95) < 0.015
        for arm in ("icft", "kl_memory")
    ),
    "Distillation on memory is slightly ahead of ICFT in preferences": lambda r: (
        -0.05 < over_splits(r, "kl_memory", "preference").mean()
        and mean_interval(over_splits(r, "kl_memory", "preference")).high < 0
    ),
    "In the confirmation a random order loses 17 points at the chosen α": lambda r: (
        round(100 * over_splits(r, "random", "medical", analysis.choose_point).mean()) == 17
        and mean_interval(over_splits(r, "random", "medical", analysis.choose_point)).low > 0
    ),
    "with NLL in place of L_consistency, ICFT loses 30 points of medical score": lambda r: (
        round(100 * over_splits(r, "no_consistency", "medical", analysis.choose_point).mean()) == 30
        and mean_interval(over_splits(r, "no_consistency", "medical", analysis.choose_point)).low > 0
    ),
    "and stages without pacing 14, but $p$ is 0.08 and 0.16": lambda r: (
        (corrected_p(r)["random order"], corrected_p(r)["without pacing"]) == (0.08, 0.16)
        and round(100 * over_splits(r, "no_pacing", "medical", analysis.choose_point).mean()) == 14
        and mean_interval(over_splits(r, "no_pacing", "medical", analysis.choose_point)).low > 0.05
    ),
    "in the confirmation no difference was measured), and the choice of teachers": lambda r: all(
        (found := mean_interval(over_splits(r, arm, "medical", analysis.choose_point))).low < 0 < found.high
        for arm in ("ring", "soft_labels", "base_teacher")
    ),
    "With T = 1 it loses 28. Self-generated prompts only: 18, $p$ = 0.45.": lambda r: (
        corrected_p(r)["self-generated memory only"] == 0.45
        and all(
            round(100 * (found := mean_interval(over_splits(r, arm, "medical", analysis.choose_point))).mean) == points
            and found.low > 0
            for arm, points in (("self_memory", 18), ("temperature_1", 28))
        )
    ),
    "In the confirmation majority vote loses 5 points (not clearly)": lambda r: (
        round(100 * (found := mean_interval(over_splits(r, "majority_vote", "medical", analysis.choose_point))).mean)
        == 5
        and found.low > 0
    ),
    "gold labels gain nothing: nearly all weak ones are right": lambda r: (
        (found := mean_interval(over_splits(r, "gold", "medical", analysis.choose_point))).low < 0 < found.high
        and min(one["label_accuracy"] for one in r["icft"].values()) > 0.95
    ),
    "gained nothing over one α after training (for preferences: 2 points less, not corrected)": lambda r: (
        abs(over_splits(r, "search", "medical").mean()) < 0.01
        and mean_interval(over_splits(r, "search", "medical", analysis.choose_point)).low < 0
        and round(100 * over_splits(r, "search", "preference", analysis.choose_point).mean()) == 2
        and mean_interval(over_splits(r, "search", "preference", analysis.choose_point)).low > 0
    ),
    "so equal tokens are 17 % more steps": lambda r: round(100 * (steps(r, "icft") / steps(r, "random") - 1)) == 17,
    "Without the curriculum ICFT is below distillation on memory": lambda r: (
        mean_interval(over_splits({**r, "icft": r["random"]}, "kl_memory", "medical")).high < 0
    ),
    "Neither study measured a difference": lambda r: (
        (found := mean_interval(over_splits(r, "random", "preference", analysis.choose_point))).low < 0 < found.high
    ),
    "and ICFT is still ahead": lambda r: mean_interval(over_splits(r, "kl_memory", "medical")).low > 0,
    "preferences than ICFT, and forgets nearly everything": lambda r: all(
        analysis.trained_point(run)["test"]["retention"] < 0.1 for run in r["plain"].values()
    ),
    "needs more forward passes": lambda r: (
        min(run["cost"]["forward_only"] for run in r["icft"].values())
        > max(run["cost"]["forward_only"] for arm in ("plain", "replay_25", "kl_memory") for run in r[arm].values())
    ),
    "ICFT's medical score is above replay's": lambda r: (
        mean_interval(over_splits(r, "replay_25", "medical", analysis.choose_point)).low > 0
    ),
    "plain fine-tuning learns more medicine and preferences than ICFT": lambda r: all(
        mean_interval(over_splits(r, "plain", key)).high < 0 for key in ("medical", "preference")
    ),
}
"""What the lesson says of the confirmation → whether the records {arm: {split: record}} say it."""

STUDIED = {
    "Without memory nearly all general answers are lost": lambda s: s["table"].loc["no_ltm", "retention"] < 0.1,
    "scaled down to retain as much": lambda s: study_says(s, "general", "replay") == "no difference measured",
    "learns far less medicine": lambda s: study_says(s, "medical", "replay") == "clear: ICFT higher",
    "**The label model** helped medicine with soft labels": lambda s: (
        study_says(s, "medical", "majority_vote") == "clear: ICFT higher"
    ),
    "**The curriculum** helps medicine": lambda s: study_says(s, "medical", "no_curriculum") == "clear: ICFT higher",
    "since pairs are hard and drawn last. Neither study measured a difference.": lambda s: (
        study_says(s, "preference", "no_curriculum") == "no difference measured"
    ),
    "**No measured benefit**: L_task, the ring": lambda s: all(
        "higher" not in study_says(s, test, method) for test in s["study"]["tests"] for method in ("no_task", "no_ring")
    ),
    "ICFT without long-term memory was 88 points lower": lambda s: (
        round(100 * s["results"].set_index(["test", "method"]).difference["general", "no_ltm"]) == 88
    ),
    "in section 7, ICFT was better without it": lambda s: (
        study_says(s, "medical", "no_ring") == "these runs only: ICFT lower"
    ),
}
"""What the lesson says of the study of section 7 → whether what it has computed says it."""


def mean(records, arm, key, alpha=1.0):
    """A test score of an arm at α, the mean over its runs."""
    return np.mean([one["test"][key] for run in records[arm].values() for one in run["curve"] if one["alpha"] == alpha])


def includes_zero(interval):
    return interval.low < 0 < interval.high


ALL_DIFFERENCES = (questions.medical_difference, questions.retention_difference)
CHAT = {
    "60,000 tokens, three seeds": lambda c: (
        {*c["icft"]} == {10, 11, 12} and c["icft"][10]["settings"]["optim.max_tokens"] == 60_000
    ),
    "(base 0.51)": lambda c: round(mean(c, "base", "medical", 0.0), 2) == 0.51,
    "**(a) is not supported**: the best baseline on validation is again distillation on memory": lambda c: (
        (claim := analysis.claim_medical(c)).rival == "kl_memory" and not claim.supported
    ),
    "the difference is uncertain in both tables": lambda c: (
        includes_zero(analysis.claim_medical(c).interval)
        and includes_zero(questions.medical_difference(c, "kl_memory", analysis.choose_point))
    ),
    "**(b) is not supported**: over three seeds the difference to replay is uncertain": lambda c: (
        includes_zero((claim := analysis.claim_retention(c)).interval) and not claim.supported
    ),
    "As trained, ICFT and distillation on memory do not differ measurably": lambda c: all(
        includes_zero(find(c, "kl_memory", analysis.trained_point)) for find in ALL_DIFFERENCES
    ),
    "**At a similar KL the random change retains as much** as ICFT": lambda c: (
        mean(c, "random_change", "kl", 0.5) < mean(c, "icft", "kl") < mean(c, "random_change", "kl")
        and mean(c, "random_change", "retention") - 0.05
        < mean(c, "icft", "retention")
        < mean(c, "random_change", "retention", 0.5)
        and mean(c, "random_change", "still_right")
        < mean(c, "icft", "still_right")
        < mean(c, "random_change", "still_right", 0.5)
    ),
    "plain LoRA with a quarter of its change is further from the base and retains 0.96": lambda c: (
        round(mean(c, "plain", "retention", 0.25), 2) == 0.96
        and mean(c, "plain", "kl", 0.25) > mean(c, "random_change", "kl")
    ),
    "with shorter replies": lambda c: (
        mean(c, "plain", "words", 0.25) < 0.6 * mean(c, "base", "words", 0.0)
        and mean(c, "plain", "still_right", 0.25) < mean(c, "icft", "still_right")
    ),
    "plain fine-tuning learns more than ICFT and forgets most of the rest": lambda c: (
        mean(c, "plain", "medical") > mean(c, "icft", "medical") and mean(c, "plain", "retention") < 0.5
    ),
    "On `smollm2` ICFT learns nearly as much, and retains 0.83": lambda c: (
        mean(c, "plain", "medical") - mean(c, "icft", "medical") < 0.05
        and round(mean(c, "icft", "retention"), 2) == 0.83
    ),
    "On `smollm2` only L_consistency, pacing and the memory's prompts were varied": lambda c: (
        [arm.name for arm in tables.ablations_of(c)] == ["no_consistency", "no_pacing", "self_memory"]
    ),
    "both on `smollm2`": lambda c: (
        not analysis.claim_medical(c).supported and not analysis.claim_retention(c).supported
    ),
}
"""What the lesson says of smollm2 → whether the records say it."""


def test_with_four_topics_no_difference_to_replay_is_measured(text):
    assert "With 4 topics, no difference to replay [was measured]" in text
    short = analysis.load_records(STUDY.parent / "tiny-short", STUDIES["tiny-short"].confirmation)
    assert includes_zero(claim := analysis.claim_medical(short).interval) and abs(claim.mean) < 0.02
    assert analysis.best_baseline(short) == "replay_25"


@pytest.fixture(scope="module")
def records():
    return analysis.load_records(STUDY.parent / "tiny", STUDIES["tiny"].confirmation)


@pytest.fixture(scope="module")
def text():
    return " ".join(" ".join(cell.source for cell in cells(BOOK, "markdown")).split())


@pytest.mark.parametrize("sentence", CONFIRMED)
def test_what_it_says_of_the_confirmation_agrees_with_the_records(sentence, records, text):
    assert sentence in text
    assert CONFIRMED[sentence](records), f"the records no longer say: {sentence}"


@pytest.mark.parametrize("sentence", CHAT)
def test_what_it_says_of_the_real_model_agrees_with_the_records(sentence, text):
    assert sentence in text
    chat = analysis.load_records(STUDY.parent / "smollm2", STUDIES["smollm2"].confirmation)
    assert CHAT[sentence](chat), f"the records no longer say: {sentence}"


@pytest.mark.parametrize("sentence", STUDIED)
def test_what_it_says_of_the_study_agrees_with_the_record(sentence, lesson, text):
    assert sentence in text
    assert STUDIED[sentence](lesson), f"the record no longer says: {sentence}"


def test_other_records_would_contradict_it(records):
    swapped = {**records, "icft": records["plain"], "plain": records["icft"]}
    false = {sentence for sentence, holds in CONFIRMED.items() if not holds(swapped)}
    assert {"**(a) is supported.**", "**(c) is not supported.**", "ICFT's medical score is above replay's"} <= false
    assert len(false) > len(CONFIRMED) / 2


def test_the_confirmation_is_complete_and_its_ablations_are_those_that_the_text_knows(records):
    arms = {arm: sorted(by_split) for arm, by_split in records.items()}
    for arm in ("base", "plain", "replay_25", "kl_memory", "icft"):
        assert arms[arm] == list(STUDIES["tiny"].confirmation), arm
    found = [arm.name for arm in tables.ablations_of(records)]
    expected = ["no_consistency", "soft_labels", "soft_no_task", "no_memory", "ring", "search", "random", "no_pacing"]
    expected += ["base_teacher", "temperature_1", "self_memory", "majority_vote", "single_lf", "gold"]
    expected += ["full_precision"]
    assert found == expected, "section 10 must say what the new ablations show"
    assert all(arms[arm] == list(STUDIES["tiny"].confirmation) for arm in expected)


def test_its_live_ablation_detected_its_effect_in_the_stored_run():
    outputs = [
        output["text"]
        for cell in checked(notebook(SOURCE))
        for output in cell.outputs
        if output.output_type == "stream"
    ]
    (live,) = [text for text in outputs if text.startswith("both above chance")]
    assert live.count(": True") == 3 and not any(": False" in text for text in outputs)


# --- figures and the diagram


def test_the_figure_of_runs_has_every_run_and_its_interval():
    runs = pd.DataFrame(dict(method=["x", "x", "y"], medical=[0.2, 0.4, 0.6], general=[0.9, 0.8, 0.1]))
    figure = plots.runs_figure(runs, dict(medical=0.05, general=0.95), dict(x="X", y="Y"))
    left = figure.axes[0].lines
    assert [list(line.get_xdata()) for line in left if line.get_marker() != "None"] == [[0.2, 0.4], [0.6]]
    assert list(left[0].get_xdata()) == [0, 1], "clipped to scores"
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["X", "Y"]


def test_the_figure_of_power_has_its_marks_where_the_formula_puts_them(built):
    figure = plots.power_figure(built["visible"], {"A vs. B": (0.1, 800)}, "medical")
    (mark,) = [line for line in figure.axes[0].lines if line.get_label() == "medical: A vs. B"]
    assert list(mark.get_xdata()) == [800] and mark.get_ydata()[0] == pytest.approx(3.13, abs=0.01)


def test_the_forest_plot_fills_what_is_clear():
    row = dict(test="general", low=-0.1, high=0.3, seeds_low=0.05, seeds_high=0.15)
    results = pd.DataFrame(
        [
            dict(row, method="x", difference=0.1, verdict="clear: ICFT higher"),
            dict(row, method="y", difference=-0.1, verdict="no difference measured"),
        ]
    )
    axis = plots.forest_figure(results, dict(x="X", y="Y"), ["general"]).axes[0]
    marks = [line for line in axis.lines if line.get_marker() != "None"]
    assert [float(line.get_xdata()[0]) for line in marks] == [10, -10]
    assert [line.get_markerfacecolor() == "white" for line in marks] == [False, True]


def test_its_diagram_says_what_is_decided_when():
    words = " ".join(text.get_text() for text in diagram.draw().axes[0].texts)
    for phrase in ("development splits", "commit", "confirmation splits", "scored once", "t-interval"):
        assert phrase in words


# --- exercises

WRONG_HOLM = [
    "def holm(p_values): return np.minimum(1, np.array(p_values) * len(p_values))",  # Bonferroni
    "def holm(p_values): return p_values",
    "def holm(p_values):\n    p = np.array(p_values)\n    rank = p.argsort().argsort()\n"
    "    return np.minimum(1, p * (len(p) - rank))",  # one may fall below the one before
    "def holm(p_values):\n    p = np.sort(p_values)\n"
    "    return np.minimum(1, np.maximum.accumulate(p * np.arange(len(p), 0, -1)))",  # not in the order given
    "def holm(p_values):\n    p = np.array(p_values)\n    order, out = p.argsort(), np.empty(len(p))\n"
    "    out[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))\n    return out",  # above 1
]
KEY = "key=lambda one: (one['validation']['medical'], one['alpha']))"
WRONG_POINT = [
    f"def choose_point(curve, least=0.95): return max(curve, {KEY}",
    "def choose_point(curve, least=0.95): return max(curve, key=lambda one: one['validation']['retention'])",
    "def choose_point(curve, least=0.95):\n"
    "    allowed = [one for one in curve if one['validation']['retention'] > least]\n"  # at least 0.95
    f"    return max(allowed or curve, {KEY}",
    "def choose_point(curve, least=0.95):\n"
    "    allowed = [one for one in curve if one['validation']['retention'] >= least]\n"
    "    score = 'medical' if allowed else 'retention'\n"
    "    return max(allowed or curve, key=lambda one: one['validation'][score])",  # ties go to the first
]
WRONG_WIDTH = [
    "def half_width(a, b): return 1.96 * (a - b).std() / (a - b).size**0.5",
    "def half_width(a, b): return 1.96 * (a - b).std() / a.shape[1]**0.5",
    "def half_width(a, b): return 1.96 * (a.mean(0).var() + b.mean(0).var())**0.5 / a.shape[1]**0.5",
    "def half_width(a, b): return 1.96 * (a - b).mean(1).std() / a.shape[0]**0.5",
]
TOKENS, ABLATED = {"optim.max_tokens": 9}, {"optim.max_tokens": 9, "consolidation.enabled": False}
DESIGN = dict(ours=TOKENS, ablation=ABLATED, seeds=5, questions=1400, measure="medical")
WRONG_DESIGN = [
    f"def design(): return {dict(DESIGN, **change)}"
    for change in (
        dict(ablation={**ABLATED, "curriculum.order": "random"}),
        dict(ablation={**ABLATED, "optim.max_tokens": 8}),
        dict(ablation={**TOKENS, "consolidation.enable": False}),
        dict(ours={}, ablation={"consolidation.enabled": False}),
        dict(seeds=3),
        dict(questions=805),
        dict(measure="general"),
    )
]


@pytest.mark.parametrize("number", range(4))
def test_the_exercises_accept_their_solutions_and_reject_wrong_ones(number, built):
    known = dict(package_holm=holm, analysis=analysis, ICFTConfig=ICFTConfig, ICFTError=ICFTError, flatten=flatten)
    tests = dict(study=dict(tests=dict(general={}, medical={}, preference={})))
    check_exercise(BOOK, number, [WRONG_HOLM, WRONG_POINT, WRONG_WIDTH, WRONG_DESIGN], {**built, **known, **tests})


def test_the_learners_holm_adjusts_the_comparisons_of_the_study(built):
    p = [0.001, 0.2, 0.01, 0.03, 0.04]
    results = pd.DataFrame(dict(p_value=p, difference=0.1, seeds_low=0.05, seeds_high=0.2))
    space = dict(built, pd=pd, package_holm=holm, results=results)
    check_core_exercise(BOOK, space, "holm", ["4 2", "equal to the package's: True"], WRONG_HOLM)


def test_the_learners_rule_chooses_the_alphas_of_the_confirmation(records):
    some = {arm: records[arm] for arm in ("icft", "replay_25")}
    names = dict(icft="ICFT", replay_25="replay")
    alphas = [analysis.choose_point(run)["alpha"] for _, run in sorted(some["replay_25"].items())]
    space = dict(records=some, names=names, analysis=analysis)
    check_core_exercise(
        BOOK, space, "choose_point", [f"replay: α {alphas}", "equal to the package's: True"], WRONG_POINT
    )
