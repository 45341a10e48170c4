"""Blind votes: the file, win rates and intervals, and the panel with the embedded model."""

import json
import math
import multiprocessing
import re
import threading
import time
from functools import cache, partial

import pytest
from scipy.stats import binomtest

from icft_lite.errors import ICFTError
from icft_lite.experiments.blind_votes import (
    add_vote,
    left_share,
    pairwise_result,
    pairwise_results,
    read_votes,
    votes_figure,
)
from icft_lite.modeling.generation import generate_reply
from icft_lite.widgets import vote_panel, votes_table

QUESTIONS = [f"What is the capital of {name}?" for name in ("France", "Bhutan", "Peru", "Kenya", "Japan", "Norway")]


def cells(html):
    return re.findall(r"<td[^>]*>(.*?)</td>", html, re.S)


@pytest.fixture(scope="module")
def models(base):
    """The embedded base three times: greedy, and at a high temperature with two seeds, so that replies differ."""
    settings = dict(cool=dict(), warm=dict(temperature=9.0, seed=1), hot=dict(temperature=9.0, seed=2))
    return {name: cache(partial(generate_reply, *base, max_new_tokens=6, **one)) for name, one in settings.items()}


@pytest.fixture(scope="module")
def two(models):
    return {name: models[name] for name in ("cool", "hot")}


def vote(left, right, choice, question="q"):
    return dict(question=question, left=left, right=right, choice=choice)


# ---------------------------------------------------------------- the file


def test_a_vote_is_appended_as_one_line_and_read_back_whatever_its_text(tmp_path):
    path, odd = tmp_path / "new" / "votes.jsonl", 'two\nlines \u2028 ü <b> 😀 "q"'
    first = add_vote(path, odd, "a", "b", [odd, ""], "left")
    before = path.read_bytes()
    second = add_vote(path, "q", "b", "a", ["x", "y"], "tie")
    assert path.read_bytes().startswith(before) and path.read_bytes().count(b"\n") == 2
    assert read_votes(path) == [first, second] and first["question"] == odd and first["replies"] == [odd, ""]


def test_a_missing_file_has_no_votes(tmp_path):
    assert read_votes(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("end", [1, 20, -1])
def test_an_incomplete_line_loses_no_other_vote(tmp_path, end):
    path = tmp_path / "votes.jsonl"
    for n in range(3):
        add_vote(path, f"q{n}", "a", "b", ["x", "y"], "left")
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(whole[0] + whole[1] + whole[2][:end])
    incomplete = end != -1  # a line that lacks only its newline is complete
    assert [one["question"] for one in read_votes(path)] == ["q0", "q1"] + ["q2"] * (not incomplete)
    add_vote(path, "q3", "a", "b", ["x", "y"], "right")
    assert [one["question"] for one in read_votes(path)] == ["q0", "q1"] + ["q2"] * (not incomplete) + ["q3"]


def test_a_line_that_is_not_a_vote_is_named_by_its_number(tmp_path, write):
    path = write("votes.jsonl", [vote("a", "b", "left"), dict(question="q", choice="left")])
    with pytest.raises(ICFTError, match="line 2 is not a vote"):
        read_votes(path)
    with pytest.raises(ICFTError, match="choose one of left, right, tie"):
        add_vote(path, "q", "a", "b", ["x", "y"], "both")


def test_a_file_that_cannot_be_written_raises_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ICFTError, match="vote cannot be written"):
        add_vote(tmp_path / "file" / "votes.jsonl", "q", "a", "b", ["x", "y"], "left")


def many(path, who):
    for n in range(50):
        add_vote(path, f"{who} {n}", "a", "b", ["x" * 2000, "y"], "left")


def test_two_writers_lose_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=many, args=(tmp_path / "votes.jsonl", who)) for who in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    votes = read_votes(tmp_path / "votes.jsonl")
    assert sorted(one["question"] for one in votes) == sorted(f"{who} {n}" for who in "ab" for n in range(50))


# ---------------------------------------------------------------- win rates and intervals


def test_a_win_counts_for_the_model_on_either_side():
    votes = [
        vote("a", "b", "left"),
        vote("b", "a", "right"),
        vote("b", "a", "left"),
        vote("a", "b", "tie"),
        vote("a", "c", "right"),
    ]
    one = pairwise_result(votes, "a", "b")
    assert one[:3] == (2, 1, 1) and one.rate == pytest.approx(2 / 3)
    assert pairwise_result(votes, "b", "a").rate == pytest.approx(1 / 3)
    assert list(pairwise_results(votes)) == [("a", "b"), ("a", "c")] and left_share(votes) == (2, 4)


@pytest.mark.parametrize("wins, losses", [(0, 5), (3, 4), (17, 3), (30, 0)])
def test_the_interval_equals_scipys_wilson_interval(wins, losses):
    one = pairwise_result([vote("a", "b", "left")] * wins + [vote("a", "b", "right")] * losses, "a", "b")
    expected = binomtest(wins, wins + losses).proportion_ci(method="wilson")
    assert (one.low, one.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_ties_alone_decide_nothing():
    one = pairwise_result([vote("a", "b", "tie")] * 3, "a", "b")
    assert one.ties == 3 and math.isnan(one.rate) and (one.low, one.high) == (0, 1)


def test_the_figure_draws_each_interval():
    votes = [vote("a", "b", "left")] * 7 + [vote("a", "b", "right")] * 3 + [vote("a", "c", "tie")]
    axis = votes_figure(votes).axes[0]
    one = pairwise_result(votes, "a", "b")
    assert list(axis.lines[0].get_xdata()) == pytest.approx([one.low, one.high])
    assert list(axis.lines[1].get_xdata()) == [0.7]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["a vs. b", "a vs. c"]
    assert votes_figure([]).axes[0].get_title("left") == "Blind votes: none yet"


# ---------------------------------------------------------------- the panel


def test_a_vote_is_saved_and_counts_for_the_model_that_wrote_the_reply(two, tmp_path):
    path = tmp_path / "votes.jsonl"
    panel = vote_panel(two, QUESTIONS, path, pause=0)
    for choice in ("left", "right", "tie"):
        question, left, right = map(str, cells(panel.replies.value))
        panel.buttons[choice].click()
        last = read_votes(path)[-1]
        assert (last["question"], last["choice"]) == (question, choice) and last["replies"] == [left, right]
        assert [two[last[side]](question) for side in ("left", "right")] == [left, right]
    assert len(read_votes(path)) == 3 == len(panel.votes)


def test_the_models_names_are_hidden_until_the_result_is_shown(two, tmp_path):
    panel = vote_panel(two, QUESTIONS, tmp_path / "votes.jsonl", pause=0)
    panel.buttons["left"].click()
    hidden = panel.question.value + panel.replies.value + panel.result.value
    assert "cool" not in hidden and "hot" not in hidden
    panel.reveal.value = True
    assert "cool vs. hot" in panel.result.value and panel.result.value == votes_table(panel.votes).data
    panel.buttons["left"].click()
    assert "chosen in 2 of 2" in panel.result.value
    panel.reveal.value = False
    assert panel.result.value == ""


def test_sides_are_random(two, tmp_path):
    left = []
    for seed in range(5):
        panel = vote_panel(two, QUESTIONS, tmp_path / f"{seed}.jsonl", seed=seed, pause=0)
        while panel.current:
            panel.buttons["tie"].click()
        left += [one["left"] for one in panel.votes]
    assert len(left) == 30 and 0.2 < left.count("cool") / len(left) < 0.8


def test_every_pair_is_shown_once_and_a_new_panel_continues(models, tmp_path):
    path = tmp_path / "votes.jsonl"
    panel = vote_panel(models, QUESTIONS[:2], path, pause=0)
    panel.buttons["left"].click()
    panel.buttons["tie"].click()
    panel = vote_panel(models, QUESTIONS[:2], path, pause=0)
    assert len(panel.votes) == 2 and panel.num_pairs == 4
    while panel.current:
        panel.buttons["right"].click()
    voted = [(one["question"], *sorted((one["left"], one["right"]))) for one in read_votes(path)]
    assert len(voted) == len(set(voted)) == 6 - panel.num_identical
    assert "No pairs are left" in panel.question.value and all(button.disabled for button in panel.buttons.values())
    panel.buttons["right"].click()
    assert len(read_votes(path)) == len(voted), "there is nothing to vote on"


def test_identical_replies_are_skipped(two, tmp_path):
    panel = vote_panel({"one": two["cool"], "other": two["cool"]}, QUESTIONS, tmp_path / "votes.jsonl")
    assert panel.current is None and panel.num_identical == len(QUESTIONS) and not (tmp_path / "votes.jsonl").exists()


def test_the_second_click_of_a_double_click_is_ignored(two, tmp_path):
    panel = vote_panel(two, QUESTIONS, tmp_path / "votes.jsonl", pause=3600)
    panel.buttons["left"].click()
    assert panel.votes == []
    panel.shown_at -= 3600
    panel.buttons["left"].click()
    panel.buttons["left"].click()
    assert len(panel.votes) == 1


def test_two_simultaneous_clicks_vote_once(two, tmp_path, monkeypatch):
    """JupyterLab may run each control's callback in its own thread."""
    both = threading.Barrier(2)
    panel = vote_panel(two, QUESTIONS, tmp_path / "votes.jsonl", pause=3600)
    panel.shown_at -= 3600

    def slow(*vote):
        time.sleep(0.2)
        return add_vote(*vote)

    def click(choice):
        both.wait()
        panel.buttons[choice].click()

    monkeypatch.setattr("icft_lite.widgets.vote.add_vote", slow)
    threads = [threading.Thread(target=click, args=(choice,)) for choice in ("left", "right")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(panel.votes) == len(read_votes(tmp_path / "votes.jsonl")) == 1


def test_a_vote_that_cannot_be_saved_is_not_counted_and_the_error_is_shown(two, tmp_path):
    folder = tmp_path / "votes"
    panel = vote_panel(two, QUESTIONS, folder / "votes.jsonl", pause=0)
    folder.write_text("")  # a file where the folder should be
    before = panel.replies.value
    panel.buttons["left"].click()
    assert panel.votes == [] and panel.replies.value == before and "cannot be written" in panel.question.value
    folder.unlink()
    panel.buttons["left"].click()
    assert len(read_votes(folder / "votes.jsonl")) == 1


def test_questions_replies_and_names_are_escaped(two, tmp_path, write):
    evil = "<img src=x onerror=alert(1)>"
    panel = vote_panel({"<b>": two["cool"], "hot": two["hot"]}, [evil], tmp_path / "v.jsonl", pause=0)
    assert "<img" not in panel.replies.value and "&lt;img" in panel.replies.value
    panel.buttons["left"].click()
    panel.reveal.value = True
    assert "<b>" not in panel.result.value and "&lt;b&gt;" in panel.result.value
    said = write("said.jsonl", json.dumps(dict(vote("a", evil, "left"), replies=[evil, evil])) + "\n")
    assert "<img" not in votes_table(read_votes(said)).data


def test_one_model_is_not_enough(two, tmp_path):
    with pytest.raises(ICFTError, match="two or more"):
        vote_panel({"one": two["cool"]}, QUESTIONS, tmp_path / "votes.jsonl")


def test_every_control_is_a_native_one_with_a_label(two, tmp_path):
    panel = vote_panel(two, QUESTIONS[:1], tmp_path / "votes.jsonl")
    controls = [*panel.children[2].children, panel.children[3]]
    assert [type(control).__name__ for control in controls] == ["Button"] * 3 + ["ToggleButton"]
    assert all(control.description and control.tooltip and not control.disabled for control in controls)
