"""Sentences of the documentation about the evidence study agree with its committed records."""

import json
import math
from pathlib import Path

import numpy as np

import icft_lite
from icft_lite.chat_checks import intrusions
from icft_lite.data.sources import bundle_from_files
from icft_lite.experiments.paper.analysis import (
    ablation_scores,
    choose_point,
    claim_medical,
    claim_preference,
    claim_retention,
    common_splits,
    difference,
    equal_retention_differences,
    load_records,
    matched_retention,
    trained_point,
)
from icft_lite.experiments.paper.arms import ARMS
from icft_lite.experiments.paper.further_claims import (
    KINDS,
    equal_correctness_table,
    errors_table,
    generalization_table,
    replies_table,
)
from icft_lite.experiments.paper.questions import medical_difference, retention_difference
from icft_lite.experiments.paper.replies import ERROR_KINDS
from icft_lite.experiments.paper.studies import STUDIES
from icft_lite.experiments.paper.tables import ablation_table, cost_table, interval_text, passed_by_kind
from icft_lite.statistics import mean_interval

ROOT = Path(icft_lite.__file__).parents[1]
RECORDS = ROOT / "icft_lite" / "experiments" / "results" / "tiny"
LESSON_03 = Path(__file__).parents[1] / "notebooks" / "src" / "03_curriculum.py"
PAGE = ROOT / "docs" / "results.md"
ADVICE = {"plan a visit"}
"""Phrases of the training replies that are in ICFT's flagged replies."""
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

    def gain(arm, other):
        """The medical difference of two arms at the chosen α, corrected for overlapping training data."""
        pairs = [
            [choose_point(records[one][split])["test"]["medical"] for one in (arm, other)] for split in records["icft"]
        ]
        return mean_interval([a - b for a, b in pairs], test_per_train=STUDIES["tiny"].test_per_train())

    corrected, alone = gain("icft", "kl_memory"), gain("no_pacing", "random")
    given, model = gain("icft", "self_memory"), gain("icft", "majority_vote")
    shared, at_its_retention = STUDIES["tiny"].test_per_train(), equal_retention_differences(records, "kl_memory")
    ahead = [
        np.subtract(*(trained_point(records[arm][split])["test"]["medical"] for arm in ("icft", "kl_memory")))
        for split in records["icft"]
    ]

    def lost(arm, key="medical", than="icft"):
        scores = ([choose_point(records[one][split])["test"][key] for split in records["icft"]] for one in (than, arm))
        return difference(*scores)

    def corrected_loss(arm, key="medical", than="icft"):
        scores = [[choose_point(records[one][split])["test"][key] for split in records["icft"]] for one in (than, arm)]
        return mean_interval(np.subtract(*scores), test_per_train=shared)

    def below(first, second):
        """The preference accuracy of one arm minus that of another on each split, as trained."""
        pairs = (
            [trained_point(records[arm][split])["test"]["preference"] for arm in (first, second)]
            for split in records["icft"]
        )
        return [a - b for a, b in pairs]

    def two_ends(interval):
        return f"{interval.low:.3f} to {interval.high:.3f} corrected".replace("-", "−")

    learned = {arm: mean(arm, "medical") for arm in records}
    trained = {arm: mean(arm, "medical", trained_point) for arm in records}
    stated = [
        f"{mean('icft', 'retention'):.2f}, ICFT has a medical score of {learned['icft']:.3f}",
        f"has {learned['kl_memory']:.3f}: a difference of {found.mean:.3f} ({found.low:.3f} to {found.high:.3f};",
        f"{corrected.low:.3f} to {corrected.high:.3f} corrected for overlapping training data)",
        f"retains as much, has {learned['replay_25']:.3f}, and plain QLoRA {learned['plain']:.3f}",
        f"At the test retention that it then has, {mean('kl_memory', 'retention'):.3f}, ICFT's score is "
        + "{:.3f} higher ({:.3f} to {:.3f}; ".format(*mean_interval(at_its_retention))
        + two_ends(mean_interval(at_its_retention, test_per_train=shared)),
        "and as trained {:.3f} ({:.3f} to {:.3f}; {:.3f} to {:.3f} corrected)".format(
            *mean_interval(ahead), *mean_interval(ahead, test_per_train=shared)[1:]
        ),
        "In preferences ICFT is {:.3f} below it ({:.3f} to {:.3f}; ".format(*lost("icft", "preference", "kl_memory"))
        + two_ends(corrected_loss("icft", "preference", "kl_memory")),
        "ICFT is {:.3f} below plain QLoRA ({:.3f} to {:.3f})".format(*(-preference.interval[i] for i in (0, 2, 1))),
        "in random order, is {:.3f} below plain QLoRA ({:.3f} to {:.3f} over splits; {})".format(
            *mean_interval(below("plain", "kl_memory")),
            two_ends(mean_interval(below("plain", "kl_memory"), test_per_train=shared)),
        ),
        "and ICFT is {:.3f} below that ({:.3f} to {:.3f}; {})".format(
            *mean_interval(below("kl_memory", "icft")),
            two_ends(mean_interval(below("kl_memory", "icft"), test_per_train=shared)),
        ),
        "without its memory ICFT is still {:.3f} below plain QLoRA ({:.3f} to {:.3f}; {})".format(
            *mean_interval(below("plain", "no_memory")),
            two_ends(mean_interval(below("plain", "no_memory"), test_per_train=shared)),
        ),
        "and {:.3f} above ICFT with it ({:.3f} to {:.3f})".format(*mean_interval(below("no_memory", "icft"))).replace(
            "-", "−"
        ),
        f"than ICFT: {trained['plain']:.3f} against {trained['icft']:.3f}",
        f"It retains {mean('plain', 'retention', trained_point):.3f} of",
    ]
    p = {row[0]: row[-1] for row in ablation_table(records, shared).rows}
    costs = cost_table(records)
    columns = [costs.header.index(name) for name in ("steps", "new sequences")]
    amount = {row[0]: [row[column] for column in columns] for row in costs.rows}
    order = [
        difference(*([choose_point(records[arm][split])["test"][key] for split in records["icft"]] for arm in arms))
        for arms, key in ((("icft", "random"), "medical"), (("random", "icft"), "preference"))
    ]
    stated += [
        "ICFT has {:.3f} less at the chosen α ({:.3f} to {:.3f}; ".format(*order[0])
        + two_ends(corrected_loss("random")),
        "With Holm's correction for all ablations p is {:.2f} and {:.2f}.".format(
            p["random order"], p["without pacing"]
        ),
        "ICFT takes {:,.0f} steps and sees {:,.0f} new sequences, with a random order {:,.0f} and {:,.0f}.".format(
            *amount["ICFT"], *amount["random order"]
        ),
        "changes preference accuracy by {:.3f} ({:.3f} to {:.3f})".format(*order[1]),
    ]
    assert mean("random", "medical") < mean("kl_memory", "medical")

    stated += [
        "a medical score that is {:.3f} lower at the chosen α ({:.3f} to {:.3f})".format(*lost("no_consistency")),
        "preference accuracy that is {:.3f} lower ({:.3f} to {:.3f})".format(*lost("no_consistency", "preference")),
        f"as trained it retains {mean('no_consistency', 'retention', trained_point):.3f}, so",
        f"it retains {mean('no_memory', 'retention', trained_point):.3f} as trained, and",
        "and {:.3f} of the medical score is lost ({:.3f} to {:.3f})".format(*lost("no_memory")),
        "without pacing in them, it has {:.3f} less ({:.3f} to {:.3f}; ".format(*lost("no_pacing"))
        + two_ends(corrected_loss("no_pacing")),
        "The order alone gains {:.3f} ({:.3f} to {:.3f};".format(*lost("random", than="no_pacing")),
        f"{alone.low:.3f} to {alone.high:.3f} corrected for overlapping training data, so not clearly)".replace(
            "-", "−"
        ),
        "the medical score is {:.3f} lower ({:.3f} to {:.3f})".format(*lost("ring")),
        "ICFT minus it is {:.3f} ({:.3f} to {:.3f}) in medicine".format(*lost("soft_labels")),
        "and {:.3f} ({:.3f} to {:.3f}) in preferences".format(*lost("soft_labels", "preference")),
        f"a run delivers a medical score of {trained['search']:.3f} and retention of "
        f"{mean('search', 'retention', trained_point):.3f}, without them {trained['icft']:.3f} and "
        f"{mean('icft', 'retention', trained_point):.3f}.",
        "If α is chosen again, the medical score is {:.3f} lower ({:.3f} to {:.3f})".format(*lost("search")),
        "and preference accuracy {:.3f} ({:.3f} to {:.3f}); two kinds of processors differ".format(
            *lost("search", "preference")
        ),
        "L_task, medicine is {:.3f} lower ({:.3f} to {:.3f}).".format(*lost("soft_no_task", than="soft_labels")),
        f"self-generated prompts only, ICFT retains {mean('self_memory', 'retention', trained_point):.3f} as trained.",
        "it has {:.3f} less in medicine ({:.3f} to {:.3f};".format(*lost("self_memory")),
        f"{given.low:.3f} to {given.high:.3f} corrected for overlapping training data; with Holm's correction p is "
        f"{p['self-generated memory only']:.2f}). -",
        "the base as the only teacher, the medical score differs by {:.3f} ({:.3f} to {:.3f}), and".format(
            *(round(value, 3) + 0.0 for value in lost("base_teacher"))
        ),
        "and preference accuracy is lower by {:.3f} ({:.3f} to {:.3f}; ".format(*lost("base_teacher", "preference"))
        + two_ends(corrected_loss("base_teacher", "preference")),
        "are right in {:.0f} to {:.0f} of 100 examples".format(
            *(100 * pick(one["label_accuracy"] for one in records["icft"].values()) for pick in (min, max))
        ),
        "those of majority vote in {:.0f} to {:.0f}.".format(
            *(100 * pick(one["label_accuracy"] for one in records["majority_vote"].values()) for pick in (min, max))
        ),
        "With majority vote, medicine is {:.3f} lower ({:.3f} to {:.3f};".format(*lost("majority_vote")),
        f"{model.low:.3f} to {model.high:.3f} corrected) and".replace("-", "−"),
        "which gold labels choose, ICFT minus it is {:.3f} ({:.3f} to {:.3f}) in medicine. With".format(
            *lost("single_lf")
        ),
        "quantization, ICFT minus it is {:.3f} ({:.3f} to {:.3f}) in medicine".format(*lost("full_precision")),
        "and {:.3f} ({:.3f} to {:.3f}) in preferences. -".format(*lost("full_precision", "preference")),
        "and preference accuracy {:.3f} ({:.3f} to {:.3f}; ".format(*lost("majority_vote", "preference"))
        + two_ends(corrected_loss("majority_vote", "preference")),
        f"same weight, ICFT retains {mean('temperature_1', 'retention', trained_point):.3f} as trained, and",
        "has {:.3f} less in medicine when it is scaled down ({:.3f} to {:.3f}).".format(*lost("temperature_1")),
        "ICFT minus it is {:.3f} ({:.3f} to {:.3f}) in medicine and".format(*lost("gold")),
        "and {:.3f} ({:.3f} to {:.3f}) in preferences. (In these runs a tied vote".format(*lost("gold", "preference")),
    ]
    assert p["NLL on memory instead of L_consistency"] < 0.05 < p["random order"], "helps, and probably helps"
    assert lost("no_pacing").mean > 0.8 * lost("random").mean, "mostly by pacing"
    assert lost("ring").low < 0, "no measured benefit, and no clear cost"
    half = {arm: np.mean(matched_retention(records, arm, 0.5, sorted(records[arm]))) for arm in ("icft", "replay_25")}
    stated.append(f"ICFT retains {half['icft']:.3f} and replay {half['replay_25']:.3f}")
    assert not [sentence for sentence in stated if sentence not in prose]
    line = " ".join(README.split())
    assert "ICFT learns more medicine than that distillation and than replay when all must retain, but is worse" in line
    assert lost("kl_memory").low > 0 and lost("replay_25").low > 0 and preference.interval.high < 0
    lesson = " ".join(LESSON_03.read_text(encoding="utf-8").replace("\n# ", " ").split())
    parts = [round(100 * lost("random", than=arm).mean) for arm in ("icft", "no_pacing")]
    assert f"Of the {parts[0]} points, the order of stages gained {parts[1]} (not clearly) and pacing" in lesson


def test_the_page_states_how_far_a_repeated_run_differs_on_the_other_processor():
    first, again = load_records(RECORDS)["icft"], load_records(RECORDS.parent / "tiny-repeated")["icft"]
    largest = dict.fromkeys(("medical", "retention", "preference", "reply"), 0.0)
    for split, record in again.items():
        assert record["settings"] == first[split]["settings"] and record["machine"] != first[split]["machine"]
        for pick in (choose_point, trained_point):
            one, other = (pick(run)["test"] for run in (first[split], record))
            largest = {key: max(value, abs(one[key] - other[key])) for key, value in largest.items()}
    stated = (
        "(splits {}, {} and {}): ".format(*sorted(again))
        + "medical scores differ by at most {medical:.3f}, "
        "retention by at most {retention:.3f}, and preference accuracy by at most {preference:.3f}, "
        "key facts in replies by at most {reply:.3f}".format(**largest)
    )
    assert stated.format(**largest) in " ".join(PAGE.read_text(encoding="utf-8").split())


def test_the_page_and_the_readme_state_what_the_runs_of_smollm2_show():
    records = load_records(RECORDS.parent / "smollm2", STUDIES["smollm2"].confirmation)
    text = PAGE.read_text(encoding="utf-8")
    prose = " ".join(
        text[text.index("### `smollm2`, confirmation") : text.index("<!-- smollm2-confirmation -->")].split()
    )
    base = trained_point(records["base"][10])

    def mean(arm, *keys, pick=trained_point):
        return [np.mean([pick(one)["test"][key] for one in records[arm].values()]) for key in keys]

    def at(alpha):
        return lambda record: next(point for point in record["curve"] if point["alpha"] == alpha)

    def matched(arm, share=0.9):
        splits = common_splits(records, "base", "plain", arm)
        return np.mean(matched_retention(records, arm, share, splits))

    def ratios(key):
        return [
            np.mean([trained_point(one)[part][key] / base[part][key] for one in records["icft"].values()])
            for part in ("validation", "test")
        ]

    def words(interval, sign=1):
        low, high = sorted((sign * interval.low, sign * interval.high))
        return f"{sign * interval.mean:.3f} ({low:.3f} to {high:.3f}".replace("-", "−")

    medical, retention = claim_medical(records), claim_retention(records)
    assert (medical.supported, retention.supported, medical.rival) == (False, False, "kl_memory")
    arms = ("icft", "kl_memory", "replay_25", "plain")
    trained = {arm: mean(arm, "medical", "retention", "kl", "still_right", "intrusion") for arm in arms}
    half, full = (mean("random_change", "retention", "kl", "still_right", pick=at(alpha)) for alpha in (0.5, 1.0))
    quarter = mean("plain", "medical", "retention", "still_right", "words", pick=at(0.25))
    chosen = medical_difference(records, "kl_memory", choose_point)
    as_trained = [find(records, "kl_memory", trained_point) for find in (medical_difference, retention_difference)]
    nll = [find(records, "no_consistency", trained_point) for find in (medical_difference, retention_difference)]
    over_seeds = difference(*ablation_scores(records, "no_consistency", "medical"))
    unpaced = [find(records, "no_pacing", trained_point) for find in (medical_difference, retention_difference)]
    two_seeds = {arm: {split: runs[split] for split in (10, 11)} for arm, runs in records.items()}
    two_seeds |= load_records(RECORDS.parent / "smollm2-exploratory", (10, 11))
    soft = [find(two_seeds, "soft_labels", trained_point) for find in (medical_difference, retention_difference)]
    deficit = words(medical_difference(records, "plain", trained_point), -1).replace(" (", " below (")
    icft, memory, replay, plain = (trained[arm] for arm in arms)
    tests = {arm: [trained_point(one)["test"] for one in records[arm].values()] for arm in arms}
    spans = {(arm, key): interval_text([one[key] for one in tests[arm]]) for arm in arms for key in ("retention", "kl")}
    intrusion = mean_interval([one["intrusion"] for one in tests["icft"]])
    num_replies = sum(len(one["replies"]) for one in tests["icft"])
    flagged = [
        found
        for one in tests["icft"]
        for name, reply in one["replies"].items()
        if (found := intrusions(reply, base["test"]["replies"][name]))
    ]
    of_base = passed_by_kind(base["test"]["items"])
    kinds = {
        (arm, kind): f"{np.mean([passed_by_kind(one['items'])[kind] for one in tests[arm]]) / of_base[kind]:.2f}"
        for arm in ("icft", "replay_25")
        for kind in of_base
    }
    stated = [
        f"ICFT's medical score is {words(medical.interval)}) above that of distillation from the base on memory",
        f"Over questions it is {words(chosen)})",
        f"ICFT retains {matched('icft'):.3f}, replay {matched('replay_25'):.3f} and plain LoRA {matched('plain'):.3f}",
        f"a difference to replay of {words(retention.interval)})",
        f"Distillation on memory retains {matched('kl_memory'):.3f} there, and replay of benchmark answers "
        f"{matched('replay_answers'):.3f}.",
        "(KL {:.3f}) or of self-distillation ({:.3f}) retains {:.3f} and {:.3f}.".format(
            *mean("plain", "kl", pick=at(0.25)),
            *mean("self_distillation", "kl", pick=at(0.25)),
            *mean("plain", "retention", pick=at(0.25)),
            *mean("self_distillation", "retention", pick=at(0.25)),
        ),
        f"At 50 % of its own gain it retains {matched('plain', 0.5):.3f}, ICFT {matched('icft', 0.5):.3f};",
        "ICFT has a medical score of {:.3f} and retention of {:.3f}".format(*icft),
        "in its place, ICFT has {:.3f} and retains {:.3f} as trained, at a KL of {:.3f}.".format(
            *mean("no_consistency", "medical", "retention", "kl")
        ),
        f"ICFT minus it is {words(nll[0])}) in medicine and {words(nll[1])}) in retention, over questions; of the",
        f"right replies {mean('no_consistency', 'still_right')[0]:.2f} stay right, with L_consistency {icft[3]:.2f}.",
        "At the chosen α it has {:.3f} and {:.3f}, and".format(
            *mean("no_consistency", "medical", "retention", pick=choose_point)
        ),
        f"ICFT minus it is {words(medical_difference(records, 'no_consistency', choose_point))}) in medicine, over",
        f"over seeds the interval is {over_seeds.low:.3f} to {over_seeds.high:.3f}, since".replace("-", "−"),
        "distillation on memory {:.3f} and {:.3f}, replay".format(*memory),
        "replay {:.3f} and {:.3f}, and plain LoRA".format(*replay),
        "plain LoRA {:.3f} and {:.3f}. KL".format(*plain),
        f"KL from the base is {icft[2]:.3f}, {memory[2]:.3f}, {replay[2]:.3f} and {plain[2]:.3f}",
        f"ICFT minus it is {words(as_trained[0])}) in medicine and {words(as_trained[1])}) in retention",
        "Without pacing it has {:.3f} and retains {:.3f};".format(*mean("no_pacing", "medical", "retention")),
        f"ICFT with pacing minus that is {words(unpaced[0])}) in medicine and "
        f"{words(unpaced[1])}) in retention. Over seeds",
        "in medicine is {:.3f} to {:.3f} (p = {:.2f} with Holm's".format(
            *difference(*ablation_scores(records, "no_pacing", "medical"))[1:],
            {row[0]: row[-1] for row in ablation_table(records).rows}["without pacing"],
        ).replace("-", "−"),
        "On validation it costs too: {:.3f} with, {:.3f} without.".format(
            *(
                np.mean([trained_point(run)["validation"]["medical"] for run in records[arm].values()])
                for arm in ("icft", "no_pacing")
            )
        ),
        f"in two seeds: ICFT minus that is {words(soft[0])}) in medicine and {words(soft[1])}) in retention, over",
        "retain {:.3f} at a KL of {:.3f} and".format(*half),
        "and {:.3f} at {:.3f}.".format(*full),
        f"Of the base's right replies, {icft[3]:.2f} stay right with ICFT",
        f"{half[2]:.2f} with the smaller random change and {full[2]:.2f} with the larger one",
        "plain LoRA has a medical score of {:.3f} and retains {:.3f}".format(*mean("low_rate", "medical", "retention")),
        f"At 90 % of plain LoRA's gain it retains {matched('low_rate'):.3f}",
        "({} of {}), it has {:.3f} and retains {:.3f}".format(
            (outcomes := records["self_distillation"][10]["rewritten"])["rewritten"],
            sum(outcomes.values()),
            *mean("self_distillation", "medical", "retention"),
        ),
        "At the chosen α it has {:.3f} and {:.3f}, about as plain LoRA that is scaled down, but {:.2f} of".format(
            *mean("self_distillation", "medical", "retention", "still_right", pick=choose_point)
        ),
        "DFT has {:.3f} and retains {:.3f}".format(*mean("dft", "medical", "retention")),
        "With it the model retains {:.3f}, with replay of the base's own replies {:.3f}. It answers in".format(
            *mean("replay_answers", "retention"), replay[1]
        ),
        "answers in {1:.0f} words (the base: {0:.0f}), and its KL from the base, {2:.3f}, is no lower than".format(
            base["test"]["words"], *mean("replay_answers", "words", "kl")
        ),
        "Scaled down to a quarter it has {:.3f} and {:.3f}; of the base's right replies {:.2f} stay right".format(
            *mean("replay_answers", "medical", "retention", "still_right", pick=at(0.25))
        ),
        "Even at a KL of {1:.3f} a random change retains {0:.3f}".format(
            *mean("random_change", "retention", "kl", pick=at(0.25))
        ),
        "With a quarter of its change it has {:.3f} and {:.3f}: less medicine".format(*quarter),
        f"only {quarter[2]:.2f} stay right, but",
        f"in {quarter[3]:.0f} words instead of {base['test']['words']:.0f}",
        "passes {:.2f} times as many of the 60 validation instructions as the base, but {:.2f} times".format(
            *ratios("instructions")
        ),
        "it answers {:.2f} and {:.2f} times as many".format(*ratios("free")),
        f"| {deficit} over questions) | missed |",
        f"| retention of at least 0.95 | {spans['icft', 'retention']} | missed |",
        f"| 1/{plain[2] / icft[2]:.0f} ({spans['icft', 'kl'].partition(' (')[2][:-1]} nats, plain LoRA "
        f"{spans['plain', 'kl'].partition(' (')[2]} | met |",
        "| {:.1f} % ({:.1f} to {:.1f}) | missed |".format(*(100 * value for value in intrusion)),
        f"{sum(not found & ADVICE for found in flagged)} of the {len(flagged)} flagged replies (of {num_replies})",
        f"ICFT passes {kinds['icft', 'seen']} times as many instructions as the base, of other kinds "
        f"{kinds['icft', 'unseen']} times; replay {kinds['replay_25', 'seen']} and {kinds['replay_25', 'unseen']}",
    ]
    assert not [sentence for sentence in stated if sentence not in prose]
    assert mean("replay_answers", "kl")[0] > plain[2]
    assert half[1] < icft[2] < full[1], "the two random changes enclose ICFT's KL"
    line = " ".join(README.split())
    assert f"In three longer runs ICFT retains {icft[1]:.2f} and plain LoRA {plain[1]:.2f}. But no difference" in line
    assert "and plain LoRA with a quarter of its weight change retains more and learns less." in line
    assert quarter[0] < icft[0] and quarter[1] > icft[1]
    assert all(found.low < 0 < found.high for found in as_trained), "no difference to distillation is measured"
    first_lesson = " ".join((ROOT / "notebooks" / "src" / "00_start_here.py").read_text(encoding="utf-8").split("\n# "))
    medical, replies = mean("icft", "medical", "reply")
    assert (
        f"(With present defaults and mostly other test items: *medical* {medical:.2f}, *reply* {replies:.2f}, "
        f"retention {icft[1]:.2f}.)"
    ) in first_lesson


def test_retention_is_stated_for_the_items_that_no_demo_had_scored():
    """The demo with 60,000 tokens drew its test items from the whole suite, before the study was frozen."""
    records = load_records(RECORDS.parent / "smollm2", STUDIES["smollm2"].confirmation)
    base = trained_point(records["base"][10])["test"]["items"]
    drawn = {item.example["id"] for item in bundle_from_files(["samples"], ["chat"]).limited(test=100).chat["test"]}
    free = {item.example["id"] for item in STUDIES["smollm2"].data(10).chat["test"] if item.accepted}

    def ratio(items, names):
        return sum(items[name] for name in names) / sum(base[name] for name in names)

    new = {*base} - drawn
    parts = [part & new for part in (free & {*base}, {*base} - free)]
    retained = {
        arm: np.mean([ratio(trained_point(run)["test"]["items"], part) for run in runs.values() for part in parts])
        for arm, runs in records.items()
    }
    prose = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"had scored {len(base) - len(new)} of these {len(base)} items" in prose
    assert (
        "On the other {} items ICFT retains {:.3f}, distillation from the base on memory {:.3f}, replay {:.3f}, NLL on "
        "memory {:.3f} and plain LoRA {:.3f}, as trained.".format(
            len(new), *(retained[arm] for arm in ("icft", "kl_memory", "replay_25", "no_consistency", "plain"))
        )
        in prose
    )
    assert retained["kl_memory"] > retained["icft"], "the order of the two depends on the other items"
    protocol = " ".join((ROOT / "docs" / "protocol.md").read_text(encoding="utf-8").split())
    seen = [len({*base} & drawn & part) for part in (free, {*base} - free)]
    assert "{} and {} of them are in half 1.".format(*seen) in protocol


def test_the_page_states_what_the_short_study_shows():
    study = STUDIES["tiny-short"]
    records, longer = (load_records(RECORDS.parent / name, study.confirmation) for name in ("tiny-short", "tiny"))
    text = PAGE.read_text(encoding="utf-8")
    part = text[text.index("### `tiny-short`, confirmation") : text.index("<!-- tiny-short-confirmation -->")]
    prose = " ".join(part.split()).replace("−", "-")

    def means(arm, *keys, pick=choose_point, of=records):
        return [np.mean([pick(one)["test"][key] for one in of[arm].values()]) for key in keys]

    medical, retention, preference = claim_medical(records), claim_retention(records), claim_preference(records)
    assert not (medical.supported or retention.supported or preference.supported)
    assert medical.rival == "replay_25" and math.isnan(retention.interval.mean) and preference.unmet
    learned = [
        [choose_point(records[arm][split])["test"]["medical"] for split in study.confirmation]
        for arm in ("icft", "kl_memory")
    ]
    gained, corrected = (
        mean_interval(np.subtract(*learned), test_per_train=share) for share in (0.0, study.test_per_train())
    )
    (with_all,), (replay,) = (means(arm, "medical", of=longer) for arm in ("icft", "replay_25"))
    others = ("plain", "low_rate", "mlp", "dft", "eaft", "kl_new", "olora")
    listed = ("ewc", "osf", "kl_new", "olora", "low_rate", "eaft", "corda", "dft")
    without = [arm.name for arm in ARMS if arm.general == "none" and arm.name in records and arm.tokens == 1]
    assert {*without} - {"base"} == {*others, "osf"} and len(others) == 7, "the eight without general prompts"
    (largest,) = means("ewc", "medical")
    assert f"of ten methods that do not train on general examples none has more than {largest:.3f}" in " ".join(
        text.split()
    )
    half = [np.mean(matched_retention(records, arm, 0.5, sorted(records[arm]))) for arm in ("icft", "replay_25")]
    stated = [
        "ICFT has a medical score of {:.3f} and retains {:.3f}.".format(*means("icft", "medical", "retention")),
        "has {:.3f} and {:.3f}: a difference of".format(*means("replay_25", "medical", "retention")),
        "a difference of {:.3f} ({:.3f} to {:.3f}). With".format(*medical.interval),
        f"With all 14 topics the difference is {with_all - replay:.3f}.",
        "with {:.3f} and {:.3f} (ICFT minus it: ".format(*means("der", "medical", "retention")),
        "{:.3f} and {:.3f}, a difference of".format(*means("kl_memory", "medical", "retention")),
        "has {:.3f} and {:.3f}. As trained it has".format(*means("averaged_replay", "medical", "retention")),
        "As trained it has {:.3f} and {:.3f}, but on two splits".format(
            *means("averaged_replay", "medical", "retention", pick=trained_point)
        ),
        "they have {:.3f} and {:.3f} in medicine.".format(*means("ewc", "medical"), *means("corda", "medical")),
        "OSF has {:.3f}, and the others at most {:.3f}: plain".format(
            *means("osf", "medical"), max(means(arm, "medical")[0] for arm in others)
        ),
        "EWC has {:.3f} and retains {:.3f}, OSF {:.3f} and {:.3f}, KL to the base on new examples {:.3f} and {:.3f},"
        " O-LoRA {:.3f} and {:.3f}, the low rate {:.3f} and {:.3f}, EAFT {:.3f} and {:.3f}, CorDA {:.3f} and {:.3f}."
        " DFT has {:.3f} and {:.3f}:".format(
            *(value for arm in listed for value in means(arm, "medical", "retention", pick=trained_point))
        ),
        "replay has {:.3f} and retains {:.3f}, so that".format(
            *means("replay_5", "medical", "retention", pick=trained_point)
        ),
        "scaled down to {:.3f}; with 50 % it has {:.3f} and {:.3f}. Joint".format(
            *means("replay_5", "medical"), *means("replay_50", "medical", "retention")
        ),
        "twice the tokens, has {:.3f} and {:.3f}.".format(*means("joint", "medical", "retention")),
        "this replay has {:.3f} and {:.3f}: ICFT minus it is {:.3f} in medicine ({:.3f} to {:.3f}, corrected)".format(
            *means("replay_longer", "medical", "retention"),
            *mean_interval(
                np.subtract(*ablation_scores(records, "replay_longer", "medical")),
                test_per_train=STUDIES["tiny-short"].test_per_train(),
            ),
        ),
        "Plain QLoRA has {:.3f}; as trained it has {:.3f} and retains {:.3f}.".format(
            *means("plain_longer", "medical"), *means("plain_longer", "medical", "retention", pick=trained_point)
        ),
        "a difference of {:.3f} in medicine ({:.3f} to {:.3f};".format(*gained),
        f"{corrected.low:.3f} to {corrected.high:.3f} corrected",
        "ICFT retains {:.3f} and replay {:.3f}.".format(*half),
        "ICFT minus plain QLoRA is {:.3f} ({:.3f} to {:.3f}).".format(*preference.interval),
        "has {:.3f} and retains {:.3f}.".format(*means("plain", "medical", "retention", pick=trained_point)),
        "it has nothing left ({:.3f})".format(*means("plain", "medical")),
    ]
    assert not [sentence for sentence in stated if sentence not in prose]
    assert sorted(choose_point(one)["alpha"] for one in records["averaged_replay"].values()) == [0.9, 0.9, 1, 1, 1]
    assert "360 pairs" in preference.text and "there are 360 pairs" in prose


def test_repeated_runs_of_tiny_short_have_the_same_scores_and_varied_replies():
    first, again = (load_records(RECORDS.parent / name) for name in ("tiny-short", "tiny-short-repeated"))
    assert {arm: sorted(runs) for arm, runs in again.items()} == dict.fromkeys(("icft", "plain"), [11, 12, 13, 14, 15])
    for arm, runs in again.items():
        for split, record in runs.items():
            for key in ("settings", "seed", "stages", "curve", "calibration", "machine"):
                assert record[key] == first[arm][split][key]
    ((_, prompts, words, own_words, plain, icft, difference),) = equal_correctness_table(again).rows
    assert round(float(words.split()[0])) == round(float(own_words.split()[0])) == 12
    shown = [icft.split()[0], plain.split()[0], difference.replace(" (", ", ").replace("-", "−").rstrip(")")]
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"On the {prompts} prompts of patients that both" in text
    assert "distinct-2 is {} (plain QLoRA {}; difference {}), and both write 12 words".format(*shown) in text


def test_the_page_states_what_self_generated_prompts_alone_do_on_smollm2():
    records = load_records(RECORDS.parent / "smollm2", STUDIES["smollm2"].confirmation)

    def means(arm, *keys, pick=trained_point):
        return [np.mean([pick(one)["test"][key] for one in records[arm].values()]) for key in keys]

    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    found = retention_difference(records, "self_memory", trained_point)
    compared = [means(arm, "kl", "still_right", "words") for arm in ("self_memory", "icft")]
    (kl, given_kl), (kept, given_kept), (words, given_words) = zip(*compared)
    stated = [
        "As trained it has {:.3f} and retains {:.3f};".format(*means("self_memory", "medical", "retention")),
        f"ICFT minus it is {found.mean:.3f} ({found.low:.3f} to {found.high:.3f}) in retention".replace("-", "−"),
        f"four times ICFT's ({kl:.3f}, {given_kl:.3f}), {kept:.2f} of the base's right replies stay right",
        f"({given_kept:.2f}), and it replies in {words:.0f} words ({given_words:.0f}). At the chosen α, half of",
        "it has {:.3f} and {:.3f}.".format(*means("self_memory", "medical", "retention", pick=choose_point)),
    ]
    assert not [sentence for sentence in stated if sentence not in text]
    assert 3.5 < kl / given_kl < 4.5
    assert {choose_point(one)["alpha"] for one in records["self_memory"].values()} == {0.5}
    plain, given, own = (means(arm, "retention")[0] for arm in ("plain", "icft", "self_memory"))
    assert own - plain > 0.8 * (given - plain), "most of the forgetting"


def test_the_page_states_what_the_tables_of_the_further_claims_show():
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    for name, plain in (("tiny", "plain QLoRA"), ("smollm2", "plain LoRA")):
        records = load_records(RECORDS.parent / name, STUDIES[name].confirmation)

        def means(table, column, arms=("ICFT", plain)):
            """The means of ICFT and plain fine-tuning in a column of a table."""
            rows = {row[0]: row[table.header.index(column)] for row in table.rows}
            return [rows[arm].split()[0] for arm in arms]

        unseen_data, replies = generalization_table(records), replies_table(records)
        unseen = means(unseen_data, f"medical: {KINDS['rule']}")
        exact = means(errors_table(records), ERROR_KINDS["right"])
        facts, varied = means(replies, "key-fact recall"), means(replies, "distinct-2")
        if name == "tiny":
            stated = [
                "on unseen items ({}, plain QLoRA {}) and".format(*unseen),
                "on paraphrases ({}, {}).".format(*means(unseen_data, f"medical: {KINDS['fact']}")),
                "word for word ({}, {}),".format(*exact),
                "of the key facts ({}, {}) and".format(*facts),
                "right or wrong (distinct-2 {}, {}; at equal".format(*varied),
                "Of general paraphrases it has {} right, plain QLoRA {}.".format(
                    *means(unseen_data, f"general: {KINDS['fact']}")
                ),
            ]
        else:
            stated = [
                "has {} of the questions on unseen items right (plain LoRA {})".format(*unseen),
                "writes {} of the references word for word ({})".format(*exact),
                "has {} of the key facts in its replies to patients ({})".format(*facts),
                "no more varied, right or wrong (distinct-2 {}, {})".format(*varied),
            ]
            rows = {row[0]: row[2:] for row in equal_correctness_table(records).rows}
            base, of_plain = rows["base, not fine-tuned"], rows[plain]
            difference = base[-1].replace("-", "−").replace(" (", ", ").rstrip(")")
            stated += [
                f"(distinct-2 {base[3].split()[0]}, base {base[2].split()[0]}; difference {difference})",
                f"right replies have {float(of_plain[0].split()[0]):.1f} words, ICFT's to the same prompts "
                f"{float(of_plain[1].split()[0]):.1f},",
            ]
        assert not [sentence for sentence in stated if sentence not in text]
        assert all(float(a) < float(b) for a, b in (unseen, exact, facts, varied)), "no support for the further claims"


def test_the_summary_of_the_page_has_the_numbers_of_the_records():
    text = PAGE.read_text(encoding="utf-8")
    rows = {
        cells[0].strip(): [cell.strip() for cell in cells[1:]]
        for line in text[text.index("## Summary") : text.index("## The evidence study")].splitlines()
        if len(cells := line.strip("|").split("|")) == 3
    }
    found = [load_records(RECORDS.parent / name, STUDIES[name].confirmation) for name in ("tiny", "smollm2")]

    def scores(arm):
        tests = [[trained_point(one)["test"] for one in records[arm].values()] for records in found]
        return [
            ", ".join(f"{np.mean([test[key] for test in some]):.3f}" for key in ("medical", "retention"))
            for some in tests
        ]

    chosen = [[choose_point(one)["test"] for one in records["plain"].values()] for records in found]
    assert rows["the same, scaled down on validation until it retains 0.95"] == [
        ", ".join(f"{np.mean([test[key] for test in some]):.3f}" for key in ("medical", "retention")) for some in chosen
    ]
    for name, arm in (
        ("plain fine-tuning: medical, retention", "plain"),
        ("replay", "replay_25"),
        ("distillation from the base on memory", "kl_memory"),
        ("ICFT", "icft"),
    ):
        assert rows[name] == scores(arm), name
    for letter, claim in (("(a)", claim_medical), ("(b)", claim_retention)):
        (row,) = [cells for name, cells in rows.items() if name.startswith(letter)]
        assert row == ["supported" if claim(records).supported else "not supported" for records in found]


def test_the_page_states_what_the_demo_retains_on_the_whole_chat_suite():
    found = json.loads((RECORDS.parent / "chat-suite-demo.json").read_text(encoding="utf-8"))["methods"]
    kept, passed = [found[name]["retention"] for name in ("icft", "qlora", "replay")], []
    for kinds in ("seen", "unseen"):
        scores = [[found[name][part]["instructions"][kinds] for part in ("before", "after")] for name in found]
        passed.append([f"{after / before:.2f}" for before, after in scores])
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    spans = ["{value:.3f} ({low:.3f} to {high:.3f}".format(**one) for one in kept]
    right = [f"{one['still_right']:.2f}" for one in kept]
    stated = [
        "retain {}, ICFT), {}, plain LoRA) and {}, replay).".format(*spans),
        "right replies {}, {} and {} stay right".format(*right),
        "ICFT passes {} times as many as the base, plain LoRA {} and replay {} times".format(*passed[0]),
        "of the 70 of other kinds {}, {} and {} times".format(*passed[1]),
    ]
    assert not [sentence for sentence in stated if sentence not in text]
    sizes = {
        (one[name]["free"]["n"], one[name]["instructions"]["n"])
        for one in found.values()
        for name in ("before", "after")
    }
    assert sizes == {(400, 210)}
