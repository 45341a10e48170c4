r"""The record of a study: a comparison's runs packed into one small file, so that it can be analysed anew.

    icft-lite compare --methods icft qlora replay no_ltm no_ring no_curriculum no_task majority_vote gold \
        --set topics= --set tokens=350000 --set competence_end=1 --seeds 3 --out runs/study
    python -m icft_lite.experiments.study runs/study        # writes icft_lite/tiny/study.json, which lesson 09 reads

The record holds every test question's right or wrong, by method and seed, so any interval can be computed again;
and the SHA-256 of the base it was measured on, since it says nothing of another.
"""

import argparse
import base64
import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch

from icft_lite.config import METHODS
from icft_lite.data.samples import sample_bundle
from icft_lite.errors import ICFTError
from icft_lite.evaluation import Suite, evaluate_suite
from icft_lite.experiments.compare import summarize_run
from icft_lite.memory.teachers import response_states
from icft_lite.modeling.adapters import use_adapter
from icft_lite.modeling.base import TINY, head_weight, load_base
from icft_lite.modeling.encoding import Encoder
from icft_lite.modeling.losses import token_kl
from icft_lite.runs import load_run
from icft_lite.utils.hardware import hardware
from icft_lite.utils.io import write_json

STUDY = TINY / "study.json"
"""The record that comes with the package."""
TESTS = dict(general=("general", "qa"), medical=("medical", "qa"), preference=("medical", "preference"))
"""What each run's answers are kept of: name → (suite, task) in a run's items.json."""
SLACK = 0.005
"""Share of test questions on which the base may score otherwise than the runs say: rounding, not another base."""


def base_hash():
    """SHA-256 of the embedded base's weights."""
    return hashlib.sha256((TINY / "model.safetensors").read_bytes()).hexdigest()


def pack_bits(values):
    """Right or wrong, bool [n] → base64 text of n / 6 characters."""
    return base64.b64encode(np.packbits(np.array(values, dtype=bool)).tobytes()).decode()


def unpack_bits(text, n):
    """`pack_bits` undone: bool [n]."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), dtype=np.uint8))[:n].astype(bool)


def divergence(model, encoded):
    """KL(base ‖ tuned) in nats a token: how far a PeftModel's next-token distributions have moved from its base's.

    encoded: list of encodings; the mean is over all their response tokens. 0 only where nothing has changed."""
    with use_adapter(model, None):
        base = torch.cat(response_states(model, encoded))
    tuned = torch.cat(response_states(model, encoded))
    weight = head_weight(model)
    with torch.no_grad():
        return float(token_kl(tuned.to(weight.device), base.to(weight.device), weight).mean())


def pack_study(folder, to=STUDY, data=None, note=""):
    """Pack the folder that `icft-lite compare` wrote into the file `to`; returns what was written.

    data: the DataBundle the runs had (default: the samples); note: shown wherever the record is.
    Raises ICFTError if `folder` holds no comparison, or the runs had another base or other tests."""
    folder, data = Path(folder), data or sample_bundle()
    comparison = _read(folder / "comparison.json")
    tests = {
        "general": _questions(data.general_test, "question"),
        "medical": _questions(data.test, "question"),
        "preference": _questions(data.test, "pair"),
    }
    parts = [
        (method, seed, folder / f"{method}-{seed}") for method in comparison["methods"] for seed in comparison["seeds"]
    ]
    reports = [_read(path / "report.json") for _, _, path in parts]
    answers, scores = _base_answers(data, tests, reports[0], folder)
    validation = dict(general=data.general_validation, medical=data.validation)
    runs = [
        dict(_run(report), right=_right(_read(path / "items.json"), tests, path), kl=_divergences(path, validation))
        for (_, _, path), report in zip(parts, reports)
    ]
    study = dict(
        note=note,
        base=dict(sha256=base_hash(), right=answers, **scores),
        conditions=dict(
            settings=reports[0]["config"],
            versions=reports[0]["versions"],
            machine=_machine(),
            methods={method: METHODS[method] for method in comparison["methods"]},
        ),
        tests={
            name: dict(ids=hashlib.sha256("\n".join(rows).encode()).hexdigest(), topics=_run_lengths(rows.values()))
            for name, rows in tests.items()
        },
        runs=runs,
    )
    write_json(to, study)
    return study


def load_study(path=STUDY):
    """The record, its answers unpacked: `study["base"]["right"][test]` and each run's `["right"][test]` are bool
    [questions], `study["tests"][test]["topic"]` and `["kind"]` their topics and kinds [questions].

    `study["current"]`: was it measured on the base that is bundled now? Raises ICFTError if there is none."""
    study = _read(path)
    for test in study["tests"].values():
        for column, name in enumerate(("topic", "kind")):
            test[name] = np.repeat([row[column] for row in test["topics"]], [row[2] for row in test["topics"]])
    for holder in (study["base"], *study["runs"]):
        holder["right"] = {
            name: unpack_bits(text, len(study["tests"][name]["topic"])) for name, text in holder["right"].items()
        }
    study["current"] = study["base"]["sha256"] == base_hash()
    return study


def answers_of(study, method, test):
    """Right or wrong of all runs of one method on a test, bool [seeds, questions]."""
    return np.stack([run["right"][test] for run in study["runs"] if run["method"] == method])


# --- the parts of a record


def _read(path):
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ICFTError(
            f"{path}: is missing or cannot be read; make it with `icft-lite compare`, then "
            f"`python -m icft_lite.experiments.study`"
        ) from None


def _questions(rows, task):
    """{id: (topic, kind)} of one task, topics together."""
    rows = sorted((row for row in rows if row["task"] == task and row["label"] >= 0), key=lambda row: row["topic"])
    return {row["id"]: (row["topic"], row["kind"]) for row in rows}


def _run_lengths(keys):
    """[(topic, kind), …] → [[topic, kind, how many in a row], …]."""
    runs = []
    for key in keys:
        if not runs or runs[-1][:2] != list(key):
            runs.append([*key, 0])
        runs[-1][2] += 1
    return runs


def _right(items, tests, where):
    """Packed answers of each test, from {suite: {task: {id: 0 or 1}}}."""
    right = {}
    for name, (suite, task) in TESTS.items():
        found = items.get(suite, {}).get(task, {})
        if set(found) != set(tests[name]):
            raise ICFTError(f"{where}: its {name} answers are to other questions than the samples'; run it again")
        right[name] = pack_bits([found[i] > 0.5 for i in tests[name]])
    return right


def _base_answers(data, tests, report, folder):
    """The bare base's (packed answers, scores), computed now; refused if the runs' scores before differ."""
    model, tokenizer = load_base("tiny", report["config"]["four_bit"])
    config = report["config"]
    encoder = Encoder(tokenizer, config["max_length"], config["letter_options"], config["share_prompts"])
    rows = dict(
        general=data.general_test,  # replies are left out: they are generated, which takes long
        medical=[row for row in data.test if row["task"] != "response"],
    )
    now = evaluate_suite(model, tokenizer, rows, encoder=encoder, items=True)
    off = n = 0
    for suite, task in TESTS.values():
        before = report["scores"]["before"][suite][task]["by_topic"]
        for topic, part in now[suite][task]["by_topic"].items():
            off += abs(part["value"] - before.get(topic, {"value": 1})["value"]) * part["n"]
            n += part["n"]
    if off > SLACK * n:
        raise ICFTError(
            f"{folder}: its runs began from another base (about {off:.0f} of {n} answers differ); "
            f"delete it and run `icft-lite compare` again"
        )
    items = {suite: {task: part["items"] for task, part in scores.items()} for suite, scores in now.items()}
    return _right(items, tests, folder), {name: now[suite][task]["value"] for name, (suite, task) in TESTS.items()}


def _run(report):
    """What the record keeps of a run's report."""
    keep = ("method", "accuracy_matrix", "bwt", "fwt", "forgetting")
    points = [
        dict(
            name=stage["name"],
            promoted=stage["promoted"],
            **{key: stage["consolidation"][key] for key in ("origin", "alpha")},
            points=[
                [point[key] for key in ("origin", "alpha", "general", "medical")]
                for point in stage["consolidation"]["points"]
            ],
        )
        for stage in report["stages"]
    ]
    return dict(
        {key: report[key] for key in keep if key in report},
        **summarize_run(report),
        stages=points,
        seconds_by_part=report["cost"]["by_part"],
        peak_memory_bytes=report["cost"]["peak_memory_bytes"],
        label_ece=report["data"]["weak"].get("ece"),
    )


def _divergences(folder, rows):
    model, tokenizer = load_run(folder)
    encoder = Encoder(tokenizer)
    suites = {
        name: Suite.of(part, encoder, options=False).subset(lambda row: row["task"] == "question")
        for name, part in rows.items()
    }
    return {name: divergence(model, suite.encoded) for name, suite in suites.items()}


def _machine():
    found = hardware()
    return dict(device=found["device"], dtype=found["dtype"], cores=os.cpu_count())


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m icft_lite.experiments.study", description="Pack a comparison into a record."
    )
    parser.add_argument("folder", help="what `icft-lite compare --out` wrote")
    parser.add_argument("--to", type=Path, default=STUDY, help="default: %(default)s")
    parser.add_argument("--note", default="", help="a line to show with the record")
    args = parser.parse_args(argv)
    try:
        study = pack_study(args.folder, args.to, note=args.note)
    except ICFTError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{args.to}: {len(study['runs'])} runs, {args.to.stat().st_size / 1024:.0f} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
