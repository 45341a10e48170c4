"""Write the results of the evidence study into docs/results.md from the committed records.

    python scripts/paper_results.py                        # write tables and figures
    python scripts/paper_results.py --check                # exit with 1 if they are not current
    python scripts/paper_results.py --add runs/paper       # first copy the records of `icft-lite compare --suite paper`

Records are small JSON files, one for each arm and split, in icft_lite/experiments/results/STUDY/. Those in
STUDY-repeated/ are of runs that were repeated later, those in STUDY-exploratory/ of arms whose splits are not complete.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from icft_lite.experiments.paper.analysis import Records, load_records
from icft_lite.experiments.paper.arms import ARMS
from icft_lite.experiments.paper.studies import STUDIES
from icft_lite.experiments.paper.suite import missing_runs, study_figures, study_tables
from icft_lite.reporting.formatting import to_markdown
from icft_lite.reporting.style import png
from icft_lite.utils.io import write_bytes, write_text

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "icft_lite" / "experiments" / "results", ROOT / "docs" / "results.md"


def sections(draw: bool) -> Iterator[tuple[str, str]]:
    """Yield (mark, text) of each part of the page: development and confirmation of every study with records."""
    for name, study in STUDIES.items():
        found = {split for runs in load_records(RESULTS / name).values() for split in runs}
        confirmed = found & set(study.confirmation)
        for part, splits in (("development", found - confirmed), ("confirmation", confirmed)):
            if splits:
                yield f"{name}-{part}", study_text(name, part, sorted(splits), draw)


def study_text(name: str, part: str, splits: list[int], draw: bool) -> str:
    """Return the tables and figures of a study's development or confirmation; draw: write the figures' files."""
    records = load_records(RESULTS / name, splits)
    texts = []
    if part == "confirmation" and (missing := missing_runs(records, name)):
        runs = "; ".join(f"`{arm}` {', '.join(map(str, splits))}" for arm, splits in missing.items())
        texts.append(f"In progress. Splits that are not run yet: {runs}. No claim is judged before all are.")
    for key, figure in study_figures(records, name).items():
        path = PAGE.parent / f"study-{name}-{part}-{key}.png"
        if draw:
            write_bytes(path, png(figure))
        texts.append(f"![{figure.axes[0].get_title()}]({path.name})")
    tables = study_tables(records, name, load_records(RESULTS / f"{name}-repeated", splits))
    texts += [to_markdown(table).replace("## ", "**", 1).replace("\n", ".**\n", 1) for table in tables]
    partial = load_records(RESULTS / f"{name}-exploratory", splits)
    of_arms = {arm.label: ", ".join(map(str, partial[arm.name])) for arm in ARMS if arm.name in partial}
    if of_arms:
        runs = "; ".join(f"{label} ({numbers})" for label, numbers in of_arms.items())
        texts.append(f"Run on some splits only, exploratory, and in no table: {runs}.")
    not_run = [arm.label for arm in ARMS if arm.runs_on(name) and arm.name not in {*records, *partial}]
    texts.append(f"Not run: {'; '.join(not_run)}." if not_run else "All arms were run.")
    commits = sorted({one["commit"] for runs in records.values() for one in runs.values()})
    command = next(iter(next(iter(records.values())).values()))["command"]
    where = f"Splits {', '.join(map(str, splits))}. Commit {', '.join(commits)}. {machines_text(records)}"
    texts.append(f"Command: `{command}`. {where}")
    return "\n\n".join(texts)


def machines_text(records: Records) -> str:
    """Return a sentence that names the machine of every arm."""
    arms: dict[str, list[str]] = {}
    for arm in ARMS:
        for machine in sorted({one["machine"] for one in records.get(arm.name, {}).values()}):
            arms.setdefault(machine, []).append(arm.label)
    if len(arms) == 1:
        return f"Machine: {next(iter(arms))}."
    return "Machines: " + ". ".join(f"{machine}: {'; '.join(labels)}" for machine, labels in arms.items()) + "."


def page(draw: bool = False) -> str:
    """Return docs/results.md with current sections; draw: write the figures' files."""
    text = PAGE.read_text(encoding="utf-8")
    for mark, section in sections(draw):
        start, end = f"<!-- {mark} -->", f"<!-- end {mark} -->"
        if start not in text:
            sys.exit(f"{PAGE}: has no section {start} … {end}; add these two lines where it belongs")
        before, rest = text.split(start)
        text = f"{before}{start}\n{section}\n{end}{rest.split(end)[1]}"
    return text


def main() -> None:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only check that the page is current")
    parser.add_argument("--add", type=Path, metavar="DIR", help="--out of the study")
    args = parser.parse_args()
    for name in STUDIES if args.add else ():
        for path in sorted((args.add / name).glob("*.json")):
            (RESULTS / name).mkdir(exist_ok=True)
            shutil.copy(path, RESULTS / name)
    text = page(draw=not args.check)
    if args.check and text != PAGE.read_text(encoding="utf-8"):
        sys.exit(f"{PAGE}: is not current; run python scripts/paper_results.py")
    write_text(PAGE, text)


if __name__ == "__main__":
    main()
