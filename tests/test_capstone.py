"""The capstone: the kit hides its questions, entries are data only, and scores follow from the files."""

import json
import shutil
import zipfile
from dataclasses import replace

import pytest
import torch
from grading_fixtures import ROOT, release_script
from safetensors.torch import load_file, save_file

from icft_lite import ICFTError, cli
from icft_lite.data.groups import group_hashes
from icft_lite.data.splits import read_examples
from icft_lite.grading.capstone import Capstone, build_kit, load_kit, load_public, practice_kit
from icft_lite.grading.capstone_grader import CapstoneGrader, EntryResult, Scores, domain_score, entry_line, ranked
from icft_lite.grading.entries import find_entries, pack_entry, read_entry, read_log
from icft_lite.grading.leaderboard import leaderboard_page
from icft_lite.modeling.adapters import add_adapters, save_adapter
from icft_lite.modeling.base import load_base

QUICK = {
    "method": "replay",
    "optim.max_steps": 2,
    "adapter.rank": 4,
    "adapter.alpha": 8,
    "consolidation.enabled": False,
    "long_term.self_prompts": 0,
}
"""A reference of two steps."""
CAPSTONE = Capstone(reference=QUICK, reference_seeds=(0,), hidden_share=0.1)


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    """A kit with few general examples."""
    folder = tmp_path_factory.mktemp("capstone") / "kit"
    build_kit(CAPSTONE, folder)
    kit = load_kit(folder)
    few = kit.public.limited(general_test=120, general_validation=20, general_memory=40, trusted=40, validation=10)
    return replace(kit, public=few)


@pytest.fixture(scope="module")
def grader(kit):
    return CapstoneGrader(kit)


@pytest.fixture(scope="module")
def made(kit, grader, tmp_path_factory):
    """Entries by name: the reference itself, an adapter that changes nothing, and one that destroys the model."""
    folder = tmp_path_factory.mktemp("entries")
    assert len(grader.reference) == 1
    pack_entry(kit.folder / "reference" / "0", folder / "replay")
    for name, noise in (("nothing", 0.0), ("noise", 1.0)):
        shutil.copytree(folder / "replay", folder / name)
        path = folder / name / "adapter_model.safetensors"
        torch.manual_seed(0)
        tensors = {key: noise * torch.randn_like(value) for key, value in load_file(path).items()}
        save_file(tensors, path)
    return folder


@pytest.fixture
def entry(made, tmp_path):
    """entry(**changes) → a copy of the reference's entry with changed settings, log or tensors."""

    def make(config=None, log=None, tensors=None, name="entry"):
        folder = tmp_path / name
        shutil.copytree(made / "replay", folder)
        for file, changes in (("config.json", config), ("tokens.json", log)):
            content = json.loads((folder / file).read_text())
            for key, value in (changes or {}).items():
                group, _, leaf = key.rpartition(".")
                (content[group] if group else content)[leaf] = value
            (folder / file).write_text(json.dumps(content))
        if tensors is not None:
            path = folder / "adapter_model.safetensors"
            save_file(tensors(load_file(path)), path)
        return folder

    return make


def reason(grader, folder):
    """Return why an entry was not scored."""
    result = grader.grade(folder.name, folder)
    assert not result.scored
    return result.invalid


# --- the kit


def test_no_group_is_in_both_parts_and_nothing_public_reveals_the_hidden_questions(kit):
    public = read_examples(kit.folder / "public" / "domain.jsonl")
    assert not set(group_hashes(public)) & set(group_hashes(kit.hidden))
    assert len(kit.hidden) + len(public) == 720 and len(kit.hidden) >= 60
    text = "".join(path.read_text() for path in (kit.folder / "public").iterdir())
    assert not any(json.dumps(prompt) in text for prompt in kit.hidden["prompt"])
    assert {"seed", "data"}.isdisjoint(json.loads((kit.folder / "public" / "protocol.json").read_text()))


def test_the_public_part_has_training_validation_and_practice_and_the_protocol(kit):
    capstone, bundle = load_public(kit.folder / "public")
    assert capstone == replace(CAPSTONE, seed="")
    ids = set((kit.folder / "public" / "practice_ids.txt").read_text().split())
    assert set(bundle.test["id"]) == ids and bundle.pool is None and len(bundle.trusted) > 400
    assert len(bundle.general_memory) and len(bundle.general_test)


def test_the_seed_chooses_the_hidden_questions(tmp_path):
    def hidden(seed, name):
        build_kit(replace(CAPSTONE, seed=seed), tmp_path / name)
        return (tmp_path / name / "hidden.jsonl").read_text()

    assert hidden("a", "1") == hidden("a", "2") != hidden("b", "3")


def test_a_file_of_ones_own_is_a_domain(tmp_path, write):
    rows = [{"prompt": f"What is bee number {i}?", "completion": f"worker {i}"} for i in range(150)]
    build_kit(replace(CAPSTONE, data=str(write("bees.jsonl", rows)), hidden_share=0.3), tmp_path / "kit")
    kit = load_kit(tmp_path / "kit")
    assert len(kit.hidden) == 45 and len(kit.public.test) == 15 and kit.capstone.data == ""
    with pytest.raises(ICFTError, match="9 hidden questions; at least 30 are needed"):
        build_kit(replace(CAPSTONE, data=str(write("few.jsonl", rows[:30])), hidden_share=0.3), tmp_path / "few")
    with pytest.raises(ICFTError, match="no topic 'bees'"):
        build_kit(replace(CAPSTONE, topics=("bees",)), tmp_path / "none")
    with pytest.raises(ICFTError, match="not empty"):
        build_kit(CAPSTONE, tmp_path / "kit")


def test_a_kit_without_hidden_questions_is_refused(kit, tmp_path):
    shutil.copytree(kit.folder / "public", tmp_path / "kit" / "public")
    with pytest.raises(ICFTError, match="has no hidden.jsonl"):
        load_kit(tmp_path / "kit")
    with pytest.raises(ICFTError, match="no protocol.json"):
        load_kit(tmp_path)


# --- scores


def test_the_reference_has_no_gain_over_itself(grader, made):
    result = grader.grade("replay", made / "replay")
    assert (result.gain, result.low, result.high) == (0, 0, 0) and result.invalid == ""
    report = json.loads((grader.kit.folder / "reference" / "0" / "report.json").read_text())
    assert result.retention == pytest.approx(report["retention"], abs=1e-6)
    assert result.tokens == report["cost"]["tokens"]


def test_an_adapter_that_changes_nothing_retains_everything(grader, made):
    result = grader.grade("nothing", made / "nothing")
    assert (result.retention, result.invalid) == (1, "")
    assert result.gain == pytest.approx(result.domain - domain_score(grader.reference[0]))


def test_an_entry_that_retains_too_little_is_scored_and_not_valid(grader, made):
    result = grader.grade("noise", made / "noise")
    assert result.scored and result.retention < 0.5
    assert result.invalid == f"retention {result.retention:.3f} is below 0.95"


def test_scores_are_means_over_topics_and_tasks():
    assert domain_score({("qa", "a", "1"): 1.0, ("qa", "b", "2"): 0.0, ("qa", "b", "3"): 0.0}) == 0.5


def test_the_gain_is_on_the_same_questions_as_the_reference(grader, made, monkeypatch):
    right = {key: 1.0 for key in grader.reference[0]}
    half = {key: float(i % 2) for i, key in enumerate(sorted(right))}
    monkeypatch.setitem(grader.__dict__, "reference", [half])
    monkeypatch.setattr(grader, "score", lambda *_: Scores(right, (0.97, 0.9, 1.0)))
    result = grader.grade("replay", made / "replay")
    assert result.gain == pytest.approx(1 - domain_score(half))
    assert result.low < result.gain < result.high


# --- the budget


@pytest.mark.parametrize("tokens", [80_001, None])
def test_settings_over_the_budget_are_refused(grader, entry, tokens):
    assert "the budget is 80000" in reason(grader, entry(config={"optim.max_tokens": tokens}))


def test_a_log_over_the_budget_is_refused(grader, entry):
    log = {"total": 90_000, "stages": [{"steps": 9, "tokens": 90_000}]}
    assert "90000 tokens exceed the budget" in reason(grader, entry(log=log))
    own = {"total": 20_000, "stages": [{"steps": 9, "tokens": 20_000}]}
    assert "20000 tokens exceed the budget of 10000" in reason(
        grader, entry(config={"optim.max_tokens": 10_000}, log=own, name="own")
    )
    config = CAPSTONE.reference_config(0)
    assert read_log(b'{"total": 81600, "stages": [{"steps": 1, "tokens": 81600}]}', config, CAPSTONE) == 81_600
    with pytest.raises(ICFTError, match="exceed"):
        read_log(b'{"total": 81601, "stages": [{"steps": 1, "tokens": 81601}]}', config, CAPSTONE)


@pytest.mark.parametrize(
    "log", [b"[]", b"{}", b'{"total": 1, "stages": []}', b'{"total": true, "stages": [{"steps": 1, "tokens": 1}]}',
            b'{"total": 0, "stages": [{"steps": 1, "tokens": 0}]}', b'{"total": 1, "stages": [{"steps": 1}]}',
            b'{"total": 1e9, "stages": [{"steps": 1, "tokens": 1e9}]}', b"[" * 60_000,
            b'{"total": -5, "stages": [{"steps": 1, "tokens": -5}]}'],
)  # fmt: skip
def test_a_log_that_is_not_one_is_refused(log):
    with pytest.raises(ICFTError, match="tokens.json cannot be read"):
        read_log(log, CAPSTONE.reference_config(0), CAPSTONE)


def test_a_log_whose_stages_have_another_sum_is_refused(grader, entry):
    assert "its stages have" in reason(grader, entry(log={"total": 5}))


def test_training_again_shows_whether_log_and_adapter_are_those_of_the_settings(grader, made, entry):
    assert grader.grade("replay", made / "replay", reproduce=True).reproduced is True
    total = json.loads((made / "replay" / "tokens.json").read_text())["total"]
    shorter = {"total": total - 1, "stages": [{"steps": 2, "tokens": total - 1}]}
    result = grader.grade("entry", entry(log=shorter), reproduce=True)
    assert result.reproduced is False and "another log or other scores" in result.invalid and result.scored
    assert grader.grade("noise", made / "noise", reproduce=True).reproduced is False


# --- what is not an entry


def test_another_base_is_refused(grader, entry, tmp_path):
    assert "the base is 'smollm2'; this capstone is for 'tiny'" in reason(grader, entry(config={"model": "smollm2"}))

    def of_another_base(tensors):
        return {f"base_model.model.transformer.h.{i}.weight": value for i, value in enumerate(tensors.values())}

    assert "tensors are missing" in reason(grader, entry(tensors=of_another_base, name="other"))


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda t: {**t, "extra": torch.zeros(1)}, "has no tensor 'extra'"),
        (lambda t: {name: torch.cat([value, value]) for name, value in t.items()}, "has the shape"),
        (lambda t: {name: value.T.contiguous() for name, value in t.items()}, "has the shape"),
        (lambda t: {name: value * float("nan") for name, value in t.items()}, "NaN or infinite"),
        (lambda t: {name: value.int() for name, value in t.items()}, "is torch.int32"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(grader, entry, change, words):
    assert words in reason(grader, entry(tensors=change))


def test_a_rank_that_is_not_that_of_the_tensors_is_refused(grader, entry):
    assert "has the shape" in reason(grader, entry(config={"adapter.rank": 8}))


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"metric": "accuracy"}, "the protocol fixes 'auto'"),
        ({"topics": ["urgency"]}, "the protocol fixes ()"),
        ({"encoding.letter_options": True}, "the protocol fixes False"),
        ({"adapter.load_in_4bit": False}, "the protocol fixes True"),
        ({"adapter.rank": 65}, "at most 64 is accepted"),
        ({"long_term.self_prompts": 10**9}, "at most 1000 is accepted"),
        ({"seed": "<b>"}, "seed: '<b>' is not possible"),
        ({"nothing": 1}, "nothing is not a setting"),
    ],
)
def test_settings_outside_the_protocol_are_refused(grader, entry, settings, words):
    assert words in reason(grader, entry(config=settings))


BOMB = "a: &a [x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi"))


@pytest.mark.parametrize(
    "file, content, words",
    [
        ("config.yaml", BOMB.encode(), "cannot be read"),
        ("config.yaml", b"!!python/object/apply:os.system [id]", "cannot be read"),
        ("config.json", b"[1, 2]", "cannot be read"),
        ("config.json", b"[" * 60_000, "cannot be read"),
        ("config.json", b"\xff\xfe\xff", "cannot be read"),
        ("config.json", b" " * 70_000, "more than 64 KiB"),
        ("tokens.json", b" " * 70_000, "more than 64 KiB"),
        ("adapter_model.safetensors", b"\x80\x04\x95K\x00.", "cannot be read"),
        ("adapter_model.safetensors", b"\xff" * 64, "cannot be read"),
        ("adapter_model.bin", b"\x80\x04.", "it has the file 'adapter_model.bin'"),
        ("run.py", b"print(1)", "it has the file 'run.py'"),
        ("config.yml", b"seed: 1", "one of config.json"),
    ],
)
def test_files_that_are_not_what_they_should_be_are_refused(grader, entry, file, content, words):
    folder = entry()
    if file == "config.yaml":
        (folder / "config.json").unlink()
    (folder / file).write_bytes(content)
    assert words in reason(grader, folder)


def test_settings_may_be_yaml(made, entry):
    folder = entry()
    (folder / "config.json").unlink()
    (folder / "config.yaml").write_text("method: replay\noptim:\n  max_tokens: 70000\n")
    config = read_entry("entry", folder, CAPSTONE).config
    assert (config.method, config.optim.max_tokens) == ("replay", 70_000)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "config.json", "tokens.json"])
def test_a_file_that_is_missing_or_a_link_is_refused(grader, entry, name, tmp_path):
    folder = entry()
    (folder / name).rename(tmp_path / "elsewhere")
    assert "it needs exactly" in reason(grader, folder)
    (folder / name).symlink_to(tmp_path / "elsewhere")
    assert "symbolic link" in reason(grader, folder)


def test_a_zip_file_is_read_and_names_that_lead_out_of_it_are_refused(made, tmp_path, grader):
    for name, prefix in (("good", "entry/"), ("bad", "../")):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            for path in (made / "replay").iterdir():
                archive.write(path, prefix + path.name)
    assert read_entry("good", tmp_path / "good.zip", CAPSTONE).tokens > 0
    assert "is not acceptable" in reason(grader, tmp_path / "bad.zip")


def test_an_adapter_of_peft_has_the_names_that_the_grader_expects(tmp_path, grader, entry):
    model = add_adapters(load_base("tiny")[0], 4, 8)
    save_adapter(model, "slow", tmp_path / "peft")
    assert grader.grade("e", entry(tensors=lambda _: load_file(tmp_path / "peft" / "adapter_model.safetensors"))).scored


# --- the leaderboard


def result(name, gain=0.0, **fields):
    rest = dict(domain=0.5, low=gain - 0.1, high=gain + 0.1, retention=0.97, retention_low=0.9, retention_high=1.0)
    return EntryResult(name, gain=gain, tokens=70_000, **{**rest, **fields})


HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"


def test_entries_are_sorted_by_gain_ties_share_a_rank_and_invalid_ones_come_last():
    results = [
        result("low", 0.1),
        result("tie b", 0.2),
        EntryResult("broken", invalid="no"),
        result("tie a", 0.2),
        result("best but invalid", 0.9, invalid="retention 0.500 is below 0.95"),
        result("top", 0.3),
    ]
    order = [(rank, one.name) for rank, one in ranked(results)]
    assert order == [(1, "top"), (2, "tie a"), (2, "tie b"), (4, "low"), (None, "best but invalid"), (None, "broken")]
    page = leaderboard_page(CAPSTONE, results)
    places = [page.index(f"<td>{name}<") for _, name in order]
    assert places == sorted(places)
    assert "not valid: retention 0.500 is below 0.95" in page


def test_everything_on_the_page_is_escaped():
    hostile = replace(CAPSTONE, id=HOSTILE, title=HOSTILE, version=HOSTILE, base=HOSTILE, reference={"method": HOSTILE})
    results = [result(HOSTILE), result("b", invalid=HOSTILE), EntryResult(HOSTILE, invalid=HOSTILE)]
    page = leaderboard_page(hostile, results)
    assert "<script" not in page and "<img" not in page and "&lt;script&gt;alert(1)" in page
    assert page.count("&lt;img src=x") >= 9
    assert "Content-Security-Policy" in page and "default-src 'none'" in page


def test_an_entry_without_scores_shows_none():
    page = leaderboard_page(CAPSTONE, [EntryResult("x", invalid="no")])
    assert "nan" not in page.lower().replace("tiny", "") and page.count("<td>–</td>") == 6


def test_names_of_entries_are_shown_without_control_characters(made, tmp_path):
    for name in ("a\u202eb\nc", "x" * 200):
        shutil.copytree(made / "replay", tmp_path / "all" / name)
    (tmp_path / "all" / ".hidden").mkdir()
    names = [name for name, _ in find_entries([tmp_path / "all"])]
    assert names == ["a b c", "x" * 60]
    with pytest.raises(ICFTError, match="there is no entry"):
        find_entries([tmp_path / "all" / ".hidden"])


# --- the command


def test_one_command_scores_a_folder_and_writes_the_page(kit, made, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("icft_lite.grading.capstone.load_kit", lambda folder: kit)
    (tmp_path / "broken").mkdir()
    page = tmp_path / "page.html"
    paths = [str(made / "replay"), str(made / "noise"), str(tmp_path)]
    assert cli.main(["grade", *paths, "--capstone", "KIT", "--leaderboard", str(page)]) == 3
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith("replay: gain +0.000 [+0.000, +0.000]") and first.endswith("; valid")
    assert "not valid: retention" in second and third.startswith("broken: not scored: it needs exactly")
    assert "1</td><td>replay</td>" in page.read_text()
    assert cli.main(["grade", str(made / "replay"), "--capstone", "KIT", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["gain"] == 0 and found["reproduced"] is None and found["scored"]


@pytest.mark.parametrize("option", ["--leaderboard=x.html", "--reproduce"])
def test_options_of_a_capstone_need_its_kit(option, capsys):
    assert cli.main(["grade", "a.ipynb", option]) == 2
    assert "name its kit with --capstone" in capsys.readouterr().err


def test_options_of_assignments_do_not_fit_a_capstone(capsys):
    assert cli.main(["grade", "a", "--capstone", "KIT", "--csv", "marks.csv"]) == 2
    assert "--csv: belongs to assignments" in capsys.readouterr().err


def test_a_line_says_whether_an_entry_was_reproduced():
    assert entry_line(result("a", reproduced=True)).endswith("70000 tokens, reproduced; valid")


# --- a course


def test_the_release_builds_the_kit_with_the_hidden_questions_of_its_seed(tmp_path):
    for seed, name in (("", "public"), ("spring", "spring"), ("spring", "again")):
        (given,) = release_script().release(tmp_path / name, ["C1"], run=False, seed=seed)
        assert given == tmp_path / name / "capstone" / "C1" / "public"
    hidden = {
        name: (tmp_path / name / "capstone/C1/hidden.jsonl").read_text() for name in ("public", "spring", "again")
    }
    assert hidden["public"] != hidden["spring"] == hidden["again"]
    assert load_kit(tmp_path / "spring" / "capstone" / "C1").capstone.version.startswith("1.0-")


def test_a_private_specification_may_name_a_file_next_to_it(tmp_path):
    rows = [{"prompt": f"What is bee number {i}?", "completion": f"worker {i}"} for i in range(150)]
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "bees.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = (ROOT / "notebooks/assignments/specs/c1.py").read_text()
    (tmp_path / "private" / "c1.py").write_text(source.replace("seed=SEED", 'seed=SEED, data="bees.jsonl"'))
    release_script().release(tmp_path / "out", ["C1"], run=False, private=tmp_path / "private")
    assert load_kit(tmp_path / "out" / "capstone" / "C1").hidden["prompt"][0].startswith("What is bee")


def test_the_reference_keeps_to_the_rules_for_entries():
    config = Capstone().reference_config(1)
    assert config.optim.max_tokens == Capstone().max_tokens and config.method == "replay" and config.seed == 1
    assert config.loss.consistency_weight == 0 and config.loss.replay_weight == 1


# --- a student grades an entry with the public part alone


def test_a_student_grades_on_the_practice_questions_and_sees_the_same_refusals(kit, entry, tmp_path):
    public = shutil.copytree(kit.folder / "public", tmp_path / "course" / "public")
    mine = practice_kit(public)
    practice = set((public / "practice_ids.txt").read_text().split())
    assert set(mine.hidden["id"]) == practice and mine.folder == tmp_path / "course"
    assert mine.capstone.reference_seeds == CAPSTONE.reference_seeds[:1]
    few = mine.public.limited(general_test=120, general_validation=20, general_memory=40, trusted=40, validation=10)
    grader = CapstoneGrader(replace(mine, public=few))
    result = grader.grade("mine", entry())
    assert result.scored and not result.invalid and result.tokens > 0
    assert {i for _, _, i in grader.scores["mine"].items} == practice
    refused = grader.grade("mine", entry(config={"optim.max_tokens": 10**9}, name="other"))
    assert not refused.scored and "the budget is" in refused.invalid


def test_a_public_part_that_is_not_complete_is_an_error(tmp_path):
    with pytest.raises(ICFTError, match="it has no protocol.json that can be read; give the folder of a kit"):
        practice_kit(tmp_path)
