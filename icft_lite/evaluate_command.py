"""`icft-lite evaluate`: the bundled tests or files, the chat suite, or public suites."""

import json
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from icft_lite.command_data import DataOptions, check_columns, take_data_options
from icft_lite.data.bundle import DataBundle
from icft_lite.data.overlap import load_seen
from icft_lite.data.samples import sample_bundle
from icft_lite.data.schema import Examples
from icft_lite.data.sources import evaluation_examples
from icft_lite.errors import ICFTError
from icft_lite.experiments.public_suites import lm_eval_scores, read_named_suites
from icft_lite.finished_runs import evaluate_replies, evaluate_run, load_run_or_base
from icft_lite.report_file import read_report
from icft_lite.reporting.formatting import score_lines
from icft_lite.reporting.render import print_table


def evaluate(args: Namespace, settings: dict[str, Any]) -> None:
    """Score a run or a model, and print its scores."""
    given = take_data_options(args, settings)
    if args.chat or args.lm_eval:
        _check_own_suite(args, settings, given)
        (_evaluate_chat if args.chat else _evaluate_lm_eval)(args, settings)
    elif args.limit:
        raise ICFTError("--limit: it limits --chat and the suites of --lm-eval; add one, such as --lm-eval piqa=FILE")
    else:
        scores = evaluate_run(args.dir, _read_tests(args.dir, given), settings, progress=True)
        print(json.dumps(scores, indent=2) if args.json else "\n".join(score_lines(scores)))


def _read_tests(model: str, given: DataOptions) -> DataBundle | Examples:
    """Return the samples of the run's topics, or the test examples of files."""
    sources, run = given.data or ["samples"], Path(model)
    report = read_report(run) if (run / "report.json").is_file() else {}
    if sources != ["samples"]:
        trained_on = report.get("data", {}).get("sources", {})
        return evaluation_examples(sources, given.test_ids, trained_on, given.how, load_seen(run))
    if given.test_ids:
        raise ICFTError("--test-ids: the samples have a test of their own; name a file with --data")
    check_columns(sources, given.how)
    topics = report.get("config", {}).get("topics")
    try:
        return sample_bundle().only(topics)
    except ICFTError:
        raise ICFTError(f"{run}: its topics ({', '.join(topics)}) are not in the samples; give --data") from None


def _check_own_suite(args: Namespace, settings: dict[str, Any], given: DataOptions) -> None:
    """Raise ICFTError for an option that has no effect on --chat or --lm-eval."""
    without_effect = {
        "data": given.data,
        "lm-eval": args.chat and args.lm_eval,
        "test-ids": given.test_ids,
        "map": given.how.columns,
        "answers-from": given.how.answers_from is not None,
        "turns": given.how.turns != "last",
        "metric": "metric" in settings,
        "max-length": "encoding.max_length" in settings,
    }
    if ignored := [name for name, is_given in without_effect.items() if is_given]:
        suite = "--chat" if args.chat else "--lm-eval"
        raise ICFTError(f"--{ignored[0]}: {suite} has data and metrics of its own; leave out one of the two")


def _evaluate_chat(args: Namespace, settings: dict[str, Any]) -> None:
    """Score the replies of a run and its base, or of one model, to the chat suite."""
    found = evaluate_replies(args.dir, settings, args.limit, progress=True)
    if args.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        print_table({"chat": found})


def _evaluate_lm_eval(args: Namespace, settings: dict[str, Any]) -> None:
    """Score a run or a model on public suites, with the definitions of lm-evaluation-harness."""
    suites = read_named_suites(args.lm_eval, args.limit)
    _, model, tokenizer = load_run_or_base(args.dir, settings)
    scores = lm_eval_scores(model, tokenizer, suites, progress=True)
    lines = [
        f"{name:16}" + "".join(f"  {key} {value:.3f}" if key != "n" else f"  n = {value}" for key, value in one.items())
        for name, one in scores.items()
    ]
    print(json.dumps(scores, indent=2) if args.json else "\n".join(lines))
