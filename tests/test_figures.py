"""The figures of a run and of a comparison: each is readable alone, and none contains a target."""

import pytest

from icft_lite.reporting.figures import comparison_figure, forgetting_figure, losses_figure
from icft_lite.reporting.labels import run_title
from icft_lite.reporting.style import png


def report(metric="exact_match", medical_chance=0.5):
    score = dict(metric=metric, value=0.9, n=664, option_chance=0.25)
    return dict(
        method="no_ltm",
        seed=3,
        scores=dict(
            before=dict(general=dict(qa=score), medical=dict(qa=dict(score, n=318, option_chance=medical_chance)))
        ),
        accuracy_matrix=[[0.9, 0.0, 0.1, None], [0.85, 0.8, 0.2, None], [0.8, 0.7, 0.6, None]],
        stages=[dict(name="easy", steps=2), dict(name="medium", steps=2)],
        losses=dict(step=[1, 2, 3, 4], stage=[1, 1, 2, 2], fine_tune=[4.0, 3.0, 2.0, None], task=[None] * 4),
    )


def comparison(**more):
    measure = dict(mean=0.9, min=0.88, max=0.92, values=[0.88, 0.92])
    methods = dict(icft=dict(retention=measure, medical=measure), replay=dict(retention=0.5, medical=0.4))
    return dict(methods=methods, base=dict(medical=0.1), seeds=[0, 1], **more)


def words(figure):
    """Return all texts of a figure."""
    found = [figure.get_suptitle()]
    for axis in figure.axes:
        found += [axis.get_title(loc="left"), axis.get_xlabel(), axis.get_ylabel()]
        found += [text.get_text() for text in [*axis.texts, *axis.get_xticklabels()]]
    for legend in figure.legends:
        found += [legend.get_title().get_text(), *(text.get_text() for text in legend.get_texts())]
    return "\n".join(found)


def test_data_without_levels_have_one_medical_line():
    without = {**report(), "accuracy_matrix": [[0.9, None, None, None]] * 3, "medical_by_stage": [0.1, 0.4, 0.7]}
    assert "medical, mean 0.70" in words(figure := forgetting_figure(without))
    assert [0.1, 0.4, 0.7] in [list(line.get_ydata()) for line in figure.axes[0].get_lines()]


def test_the_forgetting_figure_is_readable_alone():
    text = words(forgetting_figure(report()))
    for part in (
        "General and medical scores after each stage (no long-term memory, seed 3)",
        "exact match (0–1), test set",
        "664 general and 318 medical questions",
        "after medium",
        "general 0.80",
        "medical, mean 0.65",
    ):
        assert part in text
    assert "chance" not in text, "exact match of free answers has no chance level"


def test_the_chance_level_of_a_choice_among_options_is_drawn():
    figure = forgetting_figure(report("accuracy"))
    assert "chance level, general 0.25" in words(figure) and "chance level, medical 0.50" in words(figure)
    dotted = [line.get_ydata()[0] for line in figure.axes[0].lines if line.get_linestyle() == ":"]
    assert dotted == [0.25, 0.5]
    assert "chance level, general and medical 0.25" in words(forgetting_figure(report("accuracy_norm", 0.25)))


def test_the_losses_figure_is_readable_alone():
    figure = losses_figure(report())
    text = words(figure)
    assert len(figure.axes) == 1, "a loss without values has no panel"
    zero = {"losses": {**report()["losses"], "task": [0.0] * len(report()["losses"]["step"])}}
    assert len(losses_figure({**report(), **zero}).axes) == 1, "nor has one that is 0 throughout"
    for part in ("seed 3", "L_fine-tune", "nats per response token", "optimizer step", "easy", "medium"):
        assert part in text


def test_the_comparison_figure_is_readable_alone():
    text = words(comparison_figure(comparison(num_questions=dict(general=664, medical=318))))
    for part in (
        "Medical score against general retention",
        "general knowledge retained (test score after ÷ before)",
        "mean of 2 seeds",
        "664 general and 318 medical questions",
        "replay, no consistency loss\n0.40 medical, 0.50 retained",
        "base, not fine-tuned\n0.10 medical, 1.00 retained",
    ):
        assert part in text
    assert "questions" not in words(comparison_figure(comparison())).replace("medical questions, test score", "")


def test_no_target_is_drawn_into_a_comparison():
    with_targets = comparison(targets=dict(retention=0.9, medical=0.85))
    figure = comparison_figure(with_targets)
    assert "target" not in words(figure) and png(figure) == png(comparison_figure(comparison()))
    axis = figure.axes[0]
    assert all(line.get_transform() == axis.transData for line in axis.lines), "no line spans the whole axis"


def test_several_good_methods_are_enlarged():
    close = comparison()
    close["methods"]["gold"] = dict(retention=0.89, medical=0.91)
    figure = comparison_figure(close)
    assert len(figure.axes) == 2 and "enlarged" in words(figure)
    left, right = figure.axes[1].get_xlim()
    assert 0.8 < left < 0.88 and 0.92 < right < 1
    assert len(comparison_figure(dict(methods={})).axes) == 1
    close["methods"]["gold"] = dict(retention=0.99, medical=0.99)
    enlarged = comparison_figure(close).axes[1]
    assert enlarged.get_ylim()[1] > 1 and max(enlarged.get_yticks()) <= 1, "room for the marker, but no tick above 1"


def test_of_methods_with_equal_scores_each_has_a_visible_marker():
    equal = dict(methods={name: dict(retention=0.9, medical=0.8) for name in ("icft", "gold", "soft_labels")})
    drawn = [part for part in comparison_figure(equal).axes[0].collections if not part.get_label().startswith("_")]
    markers = [part.get_sizes()[0] for part in drawn]
    assert len(markers) == 3 and markers[0] > markers[1] > markers[2], "later ones are drawn above earlier ones"


@pytest.mark.parametrize(
    "method, seed, title", [("icft", 0, "ICFT, seed 0"), ("mine", None, "mine"), (None, 1, "seed 1"), (None, None, "")]
)
def test_run_titles(method, seed, title):
    assert run_title(dict(method=method, seed=seed)) == title
