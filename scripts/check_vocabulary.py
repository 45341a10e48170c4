"""Check that expressions which the project has replaced by standard terms do not come back.

    python scripts/check_vocabulary.py            # the whole repository
    python scripts/check_vocabulary.py README.md  # some files

Prints `file:line: phrase → what to write` for each hit and exits with 1 if there are any. Only unambiguous phrases and
identifiers are listed: words such as row, line, point, place, floor, parts, copies, told and kept are right in their
ordinary sense, so they are left to review. A line that needs an old expression, because it seeds a random generator, is
a key of a file format or quotes data, ends in a comment that starts with `# data:`.
"""

import argparse
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SUFFIXES = {".py", ".md", ".toml", ".yml", ".yaml"}
SKIPPED_FOLDERS = {".git", ".venv", "build", "dist", "runs", "shared", "__pycache__", "node_modules"}
EXEMPT = ("CHANGELOG.md", "docs/upgrading.md", "icft_lite/compat.py", "scripts/check_vocabulary.py", "tests/fixtures/",
          "tests/test_compat", "tests/test_vocabulary.py")  # fmt: skip
"""Paths, or beginnings of paths, that may use old expressions."""
LESSONS = "notebooks/src/"
"""Sources of the lessons: IDENTIFIERS and LESSON_PHRASES are checked there, PHRASES are not."""

PHRASES = {
    r"rows? a step": "batch size, examples per step",
    r"(?:general )?knowledge (?:is |was )?kept|amount kept": "retention, retained",
    r"walk(?:s|ed|ing)? back": "line search; interpolate towards the base",
    r"(?:deal|deals|dealt) anew|new deals?|each deal": "split again at random; split sensitivity",
    r"of equals": "ties are broken by",
    r"mend(?:s|ed|ing)?": "fix, fixed",
    r"likeliest": "most likely",
    r"likelier": "more likely",
    r"dear(?:er|est)?(?! \\?\[)": "expensive",  # not "Dear [Name]"
    r"made[- ]up (?:prompts?|questions?)": "self-generated prompts (pseudo-rehearsal)",
    r"mak(?:es?|ing) up (?:its |their )?(?:prompts?|questions?)": "generates prompts (pseudo-rehearsal)",
    r"same line again": "run the same command again",
    r"(?:out )?in plain numbers": "dequantized",
    r"behind one another": "packed with a block-diagonal attention mask",
    r"told apart|tell (?:them )?apart": "distinguished, distinguish",
    r"open rows?|(?:every|each|all) rows? (?:is |are )?open|rows? open": "pool of available examples",
    r"asked (?:a|the|which) models?|models? (?:is|are|was|were) asked|(?:model|teacher|base) was asked|asked once|"
    r"(?:teacher|base) is asked": "evaluated, queried",
    r"gives? (?:it |the answer )?away|giving (?:it |the answer )?away": "reveals",
    r"unsure|unsurely": "uncertain, with high entropy",
    r"(?:stands?|set|put|shown) beside": "compared with",
    r"by lot|drawn? lots": "at random",
    r"knobs?": "setting",
    r"nobody (?:wrote|told|thinks)": "say it plainly: weak labels; not known",
    r"taken away(?: in turn)?|takes? (?:a |each )?part away": "ablated; ablation",
    r"cr(?:y|ies) wolf": "false positive",
    r"school's formula": "the normal-approximation (Wald) interval",
    r"reckon(?:s|ed|ing)?": "estimate, compute",
    r"anew|afresh": "again",
    r"foretells?": "predicts",
    r"hangs? on": "depends on",
    r"earns? (?:its|their) (?:place|keep)": "is worth its cost",
    r"do(?:es)? not flatter": "agree with the default split",
    r"contestants?": "implementations, trainers",
    r"written? (?:short rows|options) behind": "packed",
    r"what one does with": "use of",
    r"answers? for ever": "caching",
    r"say(?:s)? the same of": "agree",
    r"as it stands": "as it is",
    r"is no multiple of": "is not a multiple of",
    r"middle (?:level|stage)s?|(?:easy|hard), middle|easy to middle": "medium",
    r"(?:de)?(?:normal|quant|optim|summar|token|initial|general|serial|recogn|maxim|minim|random|memor|penal|categor|organ)"
    r"is(?:e|ed|er|ers|es|ing|ation)": "US spelling: -ize, -ization",
    r"behaviours?|licences?|centred?|favour(?:s|ed)?": "US spelling: behavior, license, center, favor",
}
"""Regular expression (whole words, case-insensitive) → what to write. Checked everywhere except in the lessons."""

LESSON_PHRASES = {
    name: PHRASES[name]
    for name in (r"rows? a step", r"of equals", r"same line again", r"behind one another")
} | {
    r"dealt anew": "split again at random",
    r"docs/tried\.md": "docs/experiments.md",
}  # fmt: skip
"""Terms that are wrong in the lessons as well. Their prose is reviewed by reading."""

OLD_MODULES = (
    "clock consolidation encoding evaluate experiment faults figures files finished jobs kept label_models labelers "
    "labels launch lock losses model outcome policies processes progress pubmedqa readers records rehearsal report run "
    "samples schedule stage state study tables trainer votes"
).split()
IDENTIFIERS = {
    rf"icft_lite\.(?:{'|'.join(OLD_MODULES)})": "the subpackage, see docs/upgrading.md",
    rf"from icft_lite import (?:\w+, )*(?:{'|'.join(OLD_MODULES)})": "the subpackage, see docs/upgrading.md",
    r"tests/benchmarks": "benchmarks",
    r"docs/tried\.md|tried\.md": "docs/experiments.md",
    r"tiny[/.]pretrain": "scripts/pretrain_tiny.py",
    r"redeal": "resplit",
    r"Kept(?=\()|import Kept": "OutputCache",
    r"guard_four_bit": "check_four_bit",
    r"label_pool_rows": "make_training_examples",
    r"(?<=\.)lot": "priority",
    r"by_lot": "by_priority",
    r"average_step": "ema_step",
    r"blend(?=\()": "interpolate",
    r"Drawer": "PacedSampler",
    r"without_prompt": "drop_prompt",
    r"length_groups": "group_by_length",
    r"encode_fitting": "encode_examples",
    r"with_prompt": "supervise_prompt",
    r"head_spread": "head_covariance",
    r"pass_size": "max_tokens_per_pass",
    r"restore_adapter": "set_adapter_tensors",
    r"evaluation_rows": "evaluation_examples",
    r"plain_words": "normalize_words",
    r"plan_budget": "plan_token_budget",
    r"summarise": "summarize_run",
    r"normalise": "normalize_example",
    r"KeepStages": "SaveStageAdapters",
    r"fate_table|fates": "outcome_table, promotion_outcomes",
    r"on_point": "on_candidate",
    r"METHODS": "PRESETS",
    r"memory_rows": "memory_examples",
    r"new_rows": "new_examples",
    r"cut_contexts": "truncated_contexts",
    r"unsure_questions": "uncertain_questions",
    r"option_floor": "option_chance",
    r"unpack_below": "dequantize_below_mib",
    r"pack_rows": "packing",
    r"least_posterior": "weak.min_posterior",
    r"ring_share": "short_term.share",
    r"memory_share": "long_term.share",
    r"memory_policy": "long_term.policy",
    r"exact_average": "consolidation.exact",
    r"states_in_memory": "teacher_memory_mib",
    r"save_every": "save_steps",
    r"lora_rank": "adapter.rank",
    r"(?<!anchor=)(?:\"middle\"|'middle'|`middle`)": "medium",
}
"""Regular expression (whole words, case-sensitive) → what to write. Checked everywhere."""


def compile_rules(phrases: dict[str, str], flags: int = 0) -> tuple[re.Pattern[str], list[tuple[re.Pattern[str], str]]]:
    """Return one pattern that finds any of the phrases as whole words, and each phrase with what to write."""
    rules = []
    for phrase, advice in phrases.items():
        pattern = rf"(?:{phrase})".replace(" ", r"\s+")  # a phrase may run over the end of a line
        rules.append((rf"(?<!\w){pattern}(?!\w)", advice))
    every = re.compile("|".join(pattern for pattern, _ in rules), flags)
    return every, [(re.compile(pattern, flags), advice) for pattern, advice in rules]


RULES = {
    "text": compile_rules(PHRASES, re.IGNORECASE),
    "lessons": compile_rules(LESSON_PHRASES, re.IGNORECASE),
    "code": compile_rules(IDENTIFIERS),
}


def check_text(text: str, lesson: bool = False) -> Iterator[tuple[int, str, str]]:
    """Yield (line number, what was found, what to write), in order."""
    exempt = {number for number, line in enumerate(text.splitlines(), 1) if "# data:" in line}
    # Comment signs at the beginnings of lines become spaces, so that positions stay the same.
    plain = re.sub(r"(?m)^[ \t]*(?:#|//)", lambda start: " " * len(start[0]), text)
    found = set()
    for every, rules in (RULES["lessons" if lesson else "text"], RULES["code"]):
        if not every.search(plain):
            continue
        for pattern, advice in rules:
            for match in pattern.finditer(plain):
                number = text.count("\n", 0, match.start()) + 1
                if number not in exempt:
                    found.add((number, match[0], advice))
    yield from sorted(found)


def find_files(root: Path = ROOT) -> list[Path]:
    """Return the files of the repository that are checked, in order."""
    found = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in SKIPPED_FOLDERS and not name.endswith(".egg-info")]
        found += [Path(folder) / name for name in files if Path(name).suffix in SUFFIXES]
    return sorted(found)


def check_file(path: Path, root: Path = ROOT) -> list[str]:
    """Return one line for each hit in a file; none for an exempt one."""
    name = path.resolve().relative_to(root.resolve()).as_posix()
    if name.startswith(EXEMPT):
        return []
    text = path.read_text(encoding="utf-8")
    return [
        f"{name}:{number}: {' '.join(phrase.split())} → {advice}"
        for number, phrase, advice in check_text(text, name.startswith(LESSONS))
    ]


def main(argv: list[str] | None = None) -> int:
    """Print the hits and return the exit code: 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("files", nargs="*", type=Path, help="default: all files of the repository")
    args = parser.parse_args(argv)
    hits = [hit for path in args.files or find_files() for hit in check_file(path)]
    for hit in hits:
        print(hit)
    return 1 if hits else 0


if __name__ == "__main__":
    sys.exit(main())
