"""Transfer and forgetting, intervals and tests, calibration, scores of free-form answers."""

import math
import subprocess
import sys
from statistics import NormalDist

import numpy as np
import pytest
from scipy import stats

from icft_lite import metrics
from icft_lite.statistics import mean_interval, mean_p_value

# Rows: base, after easy, medium, hard. Columns: general, easy, medium, hard.
R = np.array([[0.9, 0.1, 0.2, 0.3], [0.8, 0.7, 0.3, 0.3], [0.7, 0.8, 0.9, 0.5], [0.6, 0.5, 0.8, 0.9]])


def test_transfer_and_forgetting_by_hand():
    assert metrics.bwt(R) == pytest.approx(((0.6 - 0.9) + (0.5 - 0.7) + (0.8 - 0.9)) / 3)
    assert metrics.fwt(R) == pytest.approx(((0.3 - 0.2) + (0.5 - 0.3)) / 2)
    assert metrics.fwt(R, baseline=[0, 0, 0.25, 0.25]) == pytest.approx((0.05 + 0.25) / 2)
    # easy was best after medium, not when it was learned
    assert metrics.forgetting(R) == pytest.approx(((0.9 - 0.6) + (0.8 - 0.5) + (0.9 - 0.8)) / 3)


def test_other_orders_of_stages_reorder_the_matrix():
    order = [0, 3, 2, 1]  # general, then hard first
    for measure in (metrics.bwt, metrics.fwt, metrics.forgetting):
        assert measure(R[:, order], learned=order) == pytest.approx(measure(R))
    # every level is taught in every stage, including the last: only general can be forgotten
    assert metrics.bwt(R, learned=[0, 3, 3, 3]) == pytest.approx(-0.3)


def test_the_matrix_is_not_changed_and_missing_cells_are_left_out():
    original = R.copy()
    gaps = [[0.9, None], [0.6, 0.5]]
    for measure in (metrics.bwt, metrics.fwt, metrics.forgetting):
        measure(R)
        measure(gaps)
    assert np.array_equal(R, original) and gaps == [[0.9, None], [0.6, 0.5]]
    assert metrics.bwt(gaps) == pytest.approx(-0.3)
    assert metrics.forgetting([[None, 0.1, 0.1], [0.5, 0.4, 0.1], [0.4, None, 0.2]]) == pytest.approx(0.1)
    assert math.isnan(metrics.fwt(gaps))


@pytest.mark.parametrize(
    "matrix, learned", [([0.1, 0.2], None), ([[0.1]], None), (R, [0, 1]), (R, [0, 1, 2, 4]), (np.ones((2, 3)), None)]
)
def test_wrong_shapes_are_rejected(matrix, learned):
    with pytest.raises(ValueError, match="accuracy matrix|learned"):
        metrics.bwt(matrix, learned=learned)


def test_retention():
    assert metrics.retention([0.8, 1.0], [0.8, 0.82]) == pytest.approx(0.9)
    assert math.isnan(metrics.retention([0.0], [0.5]))


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 11, 30, 200])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_t_interval_agrees_with_scipy_stats(n, confidence):
    values = np.random.default_rng(n).normal(size=n)
    low, high = stats.t.interval(confidence, n - 1, values.mean(), stats.sem(values))
    assert metrics.mean_interval(values, confidence) == pytest.approx((values.mean(), low, high), rel=1e-9)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_t_interval_agrees_with_closed_forms(confidence):
    """Student's t has closed quantiles for one and for two degrees of freedom."""
    for values, quantile in (
        ([0.0, 1.0], math.tan(math.pi * confidence / 2)),
        ([0.0, 1.0, 5.0], confidence * math.sqrt(2 / (1 - confidence**2))),
    ):
        half_width = quantile * np.std(values, ddof=1) / math.sqrt(len(values))
        mean, low, high = metrics.mean_interval(values, confidence)
        assert (mean - low, high - mean) == pytest.approx((half_width, half_width), rel=1e-9)


def test_p_value_of_a_mean_agrees_with_scipy_stats_and_with_the_interval():
    values = np.random.default_rng(0).normal(0.5, 1, 7)
    assert mean_p_value(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert mean_p_value(-values) == pytest.approx(mean_p_value(values)) and math.isnan(mean_p_value([1.0]))
    interval = mean_interval(values, test_per_train=0.2)
    at_the_bound = mean_p_value(values - interval.low, test_per_train=0.2)
    assert at_the_bound == pytest.approx(0.05) and mean_p_value(values, 0.2) > mean_p_value(values)


def test_t_interval_of_few_values():
    plain, wider = metrics.mean_interval([0.1, 0.2, 0.6]), metrics.mean_interval([0.1, 0.2, 0.6], test_per_train=0.25)
    assert wider.mean == plain.mean
    assert (wider.high - wider.mean) / (plain.high - plain.mean) == pytest.approx((1 + 3 * 0.25) ** 0.5)
    assert metrics.mean_interval([0.5])[0] == 0.5 and math.isnan(metrics.mean_interval([0.5]).low)
    assert metrics.mean_interval([0.5, 0.5, 0.5]) == pytest.approx((0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match="no values"):
        metrics.mean_interval([])


@pytest.mark.parametrize("k, n", [(0, 1), (1, 1), (0, 20), (20, 20), (7, 20), (276, 500), (4999, 5000)])
@pytest.mark.parametrize("method, oracle", [("clopper-pearson", "exact"), ("wilson", "wilson")])
def test_binomial_interval_agrees_with_scipy_stats(k, n, method, oracle):
    expected = stats.binomtest(k, n).proportion_ci(0.95, method=oracle)
    assert metrics.binomial_interval(k, n, method=method) == pytest.approx(tuple(expected), abs=1e-9)


@pytest.mark.parametrize("k, n, method", [(3, 2, "wilson"), (-1, 2, "wilson"), (0, 0, "wilson"), (1, 2, "wald")])
def test_impossible_counts_and_unknown_methods_are_rejected(k, n, method):
    with pytest.raises(ValueError, match="successes|unknown method"):
        metrics.binomial_interval(k, n, method=method)


@pytest.mark.parametrize("n", [1, 20, 5000])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_binomial_interval_agrees_with_closed_forms(n, confidence):
    """Clopper–Pearson for none or all of n, and Wilson's formula with the quantile of the standard library."""
    bound = ((1 - confidence) / 2) ** (1 / n)
    assert metrics.binomial_interval(0, n, confidence) == pytest.approx((0, 1 - bound), abs=1e-9)
    assert metrics.binomial_interval(n, n, confidence) == pytest.approx((bound, 1), abs=1e-9)
    z, k = NormalDist().inv_cdf((1 + confidence) / 2), n // 2
    center = (k + z**2 / 2) / (n + z**2)
    half_width = z / (n + z**2) * math.sqrt(k * (n - k) / n + z**2 / 4)
    expected = (max(0, center - half_width), min(1, center + half_width))
    assert metrics.binomial_interval(k, n, confidence, "wilson") == pytest.approx(expected, abs=1e-9)


def test_mcnemar_agrees_with_the_binomial_test():
    rng = np.random.default_rng(0)
    for n in (1, 10, 300):
        a, b = rng.random(n) < 0.7, rng.random(n) < 0.6
        only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
        expected = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
        assert metrics.mcnemar_exact(a, b) == pytest.approx(expected)
        assert metrics.mcnemar_exact(a, b) == metrics.mcnemar_exact(b, a)
    assert metrics.mcnemar_exact([True], [True]) == 1.0
    a, b = np.arange(100) < 30, np.arange(100) >= 52  # 30 questions only a answers, 48 only b
    tail = sum(math.comb(78, i) for i in range(31)) / 2**78
    assert metrics.mcnemar_exact(a, b) == pytest.approx(2 * tail, rel=1e-12)
    with pytest.raises(ValueError, match="shapes"):
        metrics.mcnemar_exact([True], [True, False])


def test_holm_by_hand():
    assert metrics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert metrics.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])


def test_bootstrap_interval_is_close_to_the_normal_one():
    rng = np.random.default_rng(1)
    a, b = rng.random(400) < 0.8, rng.random(400) < 0.7
    d = a.astype(float) - b
    result = metrics.paired_bootstrap(a, b)
    half = 1.96 * d.std() / math.sqrt(d.size)
    assert result.difference == pytest.approx(d.mean())
    assert (result.low, result.high) == pytest.approx((d.mean() - half, d.mean() + half), abs=0.01)
    assert result == metrics.paired_bootstrap(a, b), "the seed determines the result"
    flipped = metrics.paired_bootstrap(b, a)
    assert flipped.difference == -result.difference
    assert flipped.p_value == pytest.approx(result.p_value, abs=0.01)


def test_bootstrap_draws_are_fixed_by_the_seed():
    """Published intervals depend on the order of the draws; these values are those of the first release."""
    rng = np.random.default_rng(3)
    a, b, topics = rng.random((2, 40)), rng.random((2, 40)), rng.integers(0, 3, 40)
    result = metrics.paired_bootstrap(a, b, topics, n_resamples=200, seed=5)
    assert result == pytest.approx(
        (0.010662190722222025, -0.06638559025099847, 0.10249753690004482, 0.7562189054726368), abs=1e-12
    )


def test_bootstrap_counts_questions_not_seeds():
    """Five seeds with identical answers are no more evidence than one."""
    rng = np.random.default_rng(2)
    a, b = rng.random(100) < 0.6, rng.random(100) < 0.5
    assert metrics.paired_bootstrap(np.tile(a, (5, 1)), np.tile(b, (5, 1)), n_resamples=500) == pytest.approx(
        metrics.paired_bootstrap(a, b, n_resamples=500)
    )


def test_bootstrap_by_topic_gives_topics_equal_weight():
    a, b = np.array([1.0] + [0.0] * 9), np.zeros(10)
    result = metrics.paired_bootstrap(a, b, topics=["rare"] + ["common"] * 9, n_resamples=100)
    assert result[:3] == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="10 and 9 questions"):
        metrics.paired_bootstrap(a, b[:9])
    with pytest.raises(ValueError, match="1 topics for 10 questions"):
        metrics.paired_bootstrap(a, b, topics=["one"])


@pytest.mark.parametrize("per_topic", [1, 2, 4])
def test_bootstrap_with_few_questions_per_topic_resamples_topics(per_topic):
    """Resampling within topics of one question gives an interval of width zero, and p = 0."""
    rng = np.random.default_rng(4)
    a, b = rng.random(200) < 0.75, rng.random(200) < 0.65
    topics = np.repeat(np.arange(200 // per_topic), per_topic)
    means = (a.astype(float) - b).reshape(-1, per_topic).mean(1)
    half = 1.96 * means.std() / math.sqrt(means.size)
    result = metrics.paired_bootstrap(a, b, topics, n_resamples=2000)
    assert result.difference == pytest.approx(means.mean())
    assert (result.low, result.high) == pytest.approx((means.mean() - half, means.mean() + half), abs=0.02)
    same = metrics.paired_bootstrap(a, a.copy()[::-1], topics, n_resamples=2000)
    assert same.low < 0 < same.high and same.p_value > 0.05
    mixed = [*topics[:100], *["large"] * 100]
    weighted = metrics.paired_bootstrap(a, b, mixed, n_resamples=500)
    in_topics = (a.astype(float) - b)[:100].reshape(-1, per_topic).mean(1)
    expected = np.mean([*in_topics, (a.astype(float) - b)[100:].mean()])
    assert weighted.difference == pytest.approx(expected) and weighted.low < expected < weighted.high


def test_expected_calibration_error():
    probs = np.array([[0.95, 0.05]] * 4 + [[0.45, 0.55]] * 2)
    error = metrics.expected_calibration_error(probs, np.array([0, 0, 0, 1, 1, 1]))
    assert error == pytest.approx((4 * 0.2 + 2 * 0.45) / 6)
    assert metrics.expected_calibration_error(np.eye(3), np.arange(3)) == 0
    assert metrics.expected_calibration_error([[0.9, 0.1], [0.6, 0.4]], [0, -1]) == pytest.approx(0.1)
    assert math.isnan(metrics.expected_calibration_error(probs, np.full(6, -1)))


def test_metrics_import_neither_scipy_stats_nor_torch():
    """scipy.stats takes most of a second to import."""
    code = "import sys, icft_lite.metrics; print(sorted({'scipy.stats', 'torch', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("The  Kidney.", "kidney"),
        ("a kidney", "kidney"),
        ("Vitamin A", "vitamin a"),
        ("hepatitis A virus", "hepatitis a virus"),
        ("3.5 mmol/L", "3.5 mmol l"),
        ("3-5", "3 5"),
        ("1,000", "1000"),
        ("< 5%", "< 5%"),
        ("a", "a"),
        ("-", "-"),
        ("", ""),
        ("patient's", "patients"),
        ("red,blue", "red blue"),
        ("Twice daily.Then weekly.", "twice daily then weekly"),
        ("b.i.d. at 7.30", "bid at 7.30"),
        ("\N{LATIN SMALL LIGATURE FI}bre\n", "fibre"),
    ],
)
def test_normalize_answer(text, expected):
    assert metrics.normalize_answer(text) == expected


def test_token_f1():
    assert metrics.token_f1("the kidney inflammation", "inflammation of the kidney") == pytest.approx(0.8)
    assert metrics.token_f1("rest rest rest", "rest") == pytest.approx(0.5)
    assert metrics.token_f1("", "") == 1.0 and metrics.token_f1("", "rest") == 0.0
    assert metrics.token_f1("lung", "kidney") == 0.0


def test_key_fact_recall():
    assert metrics.key_fact_recall(
        "Please rest, and see a Doctor!", ["see a doctor", "rest", "fluids"]
    ) == pytest.approx(2 / 3)
    assert metrics.key_fact_recall("heart", ["ear"]) == 0.0, "whole words only"
    assert math.isnan(metrics.key_fact_recall("anything", []))
