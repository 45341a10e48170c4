"""Files around the package: workflows, templates, citation, README, links, and names that the documentation uses.

The workflows were also checked with actionlint; these tests keep what breaks most easily.
"""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

import icft_lite
from icft_lite import cli, compat
from icft_lite.config import ICFTConfig, RuntimeConfig, flatten
from icft_lite.experiments.recorded import load_recorded

ROOT = Path(icft_lite.__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "benchmarks").glob("*.md"),
        *(ROOT / "data_samples").rglob("*.md"),
    ]
)
GUIDES = [page for page in PAGES if page.name not in ("CHANGELOG.md", "upgrading.md")]
"""Pages that use today's names only."""


def load(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def pages(paths):
    return pytest.mark.parametrize("page", paths, ids=lambda path: path.relative_to(ROOT).as_posix())


def pins():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def steps_of(workflow):
    return [step for job in load(workflow)["jobs"].values() for step in job["steps"]]


# --- workflows and templates


@pages([*sorted((ROOT / ".github").rglob("*.yml")), ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff"])
def test_yaml_files_parse(page):
    assert isinstance(load(page), dict)


@pages(WORKFLOWS)
def test_workflows_have_what_github_requires(page):
    workflow = load(page)
    assert {"name", "permissions", "jobs"} <= set(workflow) and True in workflow, "YAML reads the key `on` as true"
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert {"runs-on", "steps", "timeout-minutes"} <= set(job), name
        first = "actions/deploy-pages@" if name == "publish" else "actions/checkout@"
        assert job["steps"][0]["uses"].startswith(first), name
        known = set(job.get("strategy", {}).get("matrix", {}))
        assert set(re.findall(r"\$\{\{\s*matrix\.(\w+)", str(job))) == known, name
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step), step
            assert "uses" in step or "name" in step, step


def test_the_site_is_built_on_each_change_and_published_from_main():
    jobs = load(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]
    assert any("make docs" in step.get("run", "") for step in jobs["site"]["steps"])
    assert "if" not in jobs["site"] and "refs/heads/main" in jobs["publish"]["if"]
    assert {"site", "test"} <= set(jobs["publish"]["needs"])
    assert jobs["publish"]["permissions"] == {"pages": "write", "id-token": "write"}
    assert "make docs" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pages(WORKFLOWS)
def test_actions_are_pinned_to_a_major_version(page):
    used = [step["uses"] for step in steps_of(page) if "uses" in step]
    assert used and all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in used), used


def test_ci_tests_every_python_that_is_supported_and_all_systems():
    jobs = load(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]
    assert {"lint", "test", "lessons", "colab", "smoke", "wheel"} <= set(jobs)
    assert any("make test-colab" in step.get("run", "") for step in jobs["colab"]["steps"])
    versions = jobs["test"]["strategy"]["matrix"]["python"]
    assert versions == ["3.11", "3.12", "3.13"] and PROJECT["requires-python"] == f">={versions[0]}"
    assert jobs["smoke"]["strategy"]["matrix"]["os"] == ["windows-latest", "macos-latest"]
    weekly = (ROOT / ".github" / "workflows" / "weekly.yml").read_text(encoding="utf-8")
    assert "constraints.txt" not in weekly.split("on:", 1)[1] and "cron:" in weekly


@pages(WORKFLOWS)
def test_workflows_use_the_nbval_options_of_the_makefile(page):
    options = " ".join(re.search(r"^NBVAL := (.*)$", MAKEFILE, re.M)[1].split())
    name, seconds = re.search(r"^SLOW_BARS := (\w+)=(\d+)$", MAKEFILE, re.M).groups()
    lessons = [step for step in steps_of(page) if "pytest notebooks" in step.get("run", "")]
    assert lessons and all(options in " ".join(step["run"].split()) for step in lessons)
    assert all(step["env"][name] == int(seconds) for step in lessons)


@pages([*WORKFLOWS, *PAGES])
def test_files_and_make_targets_that_are_named_exist(page):
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):(?!=)", MAKEFILE, re.M))
    code = text if page.suffix == ".yml" else "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.S))
    used = set(re.findall(r"(?<![\w-])make ([a-z][a-z-]*)", code))
    assert used <= targets, f"no target {used - targets} in the Makefile"
    if page in GUIDES or page.suffix == ".yml":
        named = re.findall(
            r"(?<![\w./-])((?:icft_lite|tests|scripts|benchmarks|notebooks|data_samples)/[\w./-]+\.\w+)", code
        )
        missing = [name for name in named if "NN" not in name and "NAME" not in name and not (ROOT / name).exists()]
        assert not missing


@pages(FORMS)
def test_issue_forms_are_complete(page):
    form = load(page)
    assert {"name", "description", "body"} <= set(form)
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids)) > 0
    for field in form["body"]:
        assert field["type"] in ("textarea", "input", "dropdown", "checkboxes") and field["attributes"]["label"]


def test_pre_commit_uses_the_tested_versions():
    config = load(ROOT / ".pre-commit-config.yaml")
    hooks = {hook["id"]: hook for repo in config["repos"] for hook in repo["hooks"]}
    assert {"ruff-check", "ruff-format", "trailing-whitespace", "vocabulary", "notebooks"} <= set(hooks)
    revisions = {repo["repo"].rsplit("/", 1)[-1]: repo["rev"] for repo in config["repos"] if repo["repo"] != "local"}
    assert revisions["ruff-pre-commit"] == f"v{pins()['ruff']}"
    assert all(re.fullmatch(r"v\d+\.\d+\.\d+", revision) for revision in revisions.values())
    for name in ("vocabulary", "notebooks"):
        assert (ROOT / hooks[name]["entry"].split()[1]).exists()
        for requirement in hooks[name].get("additional_dependencies", ()):
            package, version = requirement.split("==")
            assert pins().get(package, version) == version


# --- citation and README


def test_citation_agrees_with_the_package():
    citation = load(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["repository-code"] == PROJECT["urls"]["Repository"]
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == [{"name": "The icft-lite authors"}]
    assert icft_lite.__version__.split(".dev")[0] == citation["version"]
    assert any("2502.00832" in reference["url"] for reference in citation["references"])


README = (ROOT / "README.md").read_text(encoding="utf-8")
HEADINGS = ["What you can do with it", "Lessons", "Installation by hand", "Limits", "License"]


def test_the_readme_is_short_and_in_order():
    assert len(README.splitlines()) <= 150
    assert re.findall(r"^## (.*)$", README, re.M) == HEADINGS
    sentence, commands, figure, table, first = (
        README.index(mark) for mark in ("icft-lite is a course", "make demo ", "![", "| base model |", "\n## ")
    )
    assert sentence < commands < README.index("make test ") < figure < table < first
    assert README[sentence:commands].split("```")[0].count(". ") == 0, "one sentence before the commands"
    assert len(re.findall(r"!\[", README)) == 1
    assert len(re.findall(r"^\|[ -|]*---", README, re.M)) == 2, "the results and the lessons"


def test_the_readme_lists_every_lesson():
    rows = re.findall(r"^\| (\d\d) \| \[.+?\]\(notebooks/(.+?)\.ipynb\) \|", README, re.M)
    assert [name for _, name in rows] == sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    assert all(name.startswith(number) for number, name in rows)


def test_the_readme_shows_the_recorded_results():
    found = load_recorded()
    words = found["chat"]["base"]["words"]
    rows = {"base model": [found["base"]["medical"], found["base"]["general"], 1, 0, words]}
    for name, method in (("plain LoRA", "qlora"), ("replay", "replay"), ("ICFT", "icft")):
        one = found["methods"][method]
        interval = " to ".join(f"{one[key]['mean']:.2f}" for key in ("retention_low", "retention_high"))
        assert f"{one['retention']['mean']:.2f} ({interval})" in README
        rows[name] = [one[key]["mean"] for key in ("medical", "general", "retention", "kl_base_tuned", "words")]
    for name, values in rows.items():
        shown = re.search(rf"^\| {name} \| (.*) \|$", README, re.M)[1].split(" | ")
        assert [cell.split()[0] for cell in shown] == [*(f"{value:.2f}" for value in values[:-1]), f"{values[-1]:.0f}"]


# --- links


def slug(heading):
    """The anchor that GitHub gives a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def anchors(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.S)
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.M)}


@pages(PAGES)
def test_internal_links_and_anchors_resolve(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link) or (page.name, link) == ("index.md", "api/index.md"):  # written with the site
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


def test_slugs_are_those_of_github():
    assert slug("Sensitivity to the train/test split") == "sensitivity-to-the-traintest-split"
    assert slug("Files, and who reads them") == "files-and-who-reads-them"
    assert slug("The `tiny` [model](x.md)") == "the-tiny-model"


# --- names in the documentation


@pages(GUIDES)
def test_settings_that_are_named_exist(page):
    text = page.read_text(encoding="utf-8")
    settings = set(flatten(ICFTConfig().to_dict()))
    groups = "|".join(sorted({name.split(".")[0] for name in settings if "." in name}))
    named = set(re.findall(rf"(?<![\w/.-])((?:{groups})\.[a-z_0-9]+)(?![\w/(.])", text)) - {"curriculum.py"}
    assert named <= settings, named - settings
    runtime = set(re.findall(r"RuntimeConfig\.(\w+)", text)) | set(re.findall(r"--runtime\.(\w+)", text))
    assert runtime <= {*RuntimeConfig().to_dict(), "from_dict"}


def test_the_design_page_gives_todays_defaults():
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    settings = flatten(ICFTConfig().to_dict())
    found = 0
    for name, value in re.findall(r"`([a-z_]+\.[a-z_]+)`\s\((\d[\d,.e-]*)\)", text):
        assert float(value.replace(",", "")) == settings[name], name
        found += 1
    assert found >= 12


def test_upgrading_lists_every_old_setting_and_module():
    text = (ROOT / "docs" / "upgrading.md").read_text(encoding="utf-8")
    rows = [row for row in text.splitlines() if row.startswith("|")]
    for old, new in {**compat.SETTINGS, **compat.RUNTIME_SETTINGS}.items():
        assert any(f"`{old}`" in row and new in row for row in rows), old
    for old in compat.MODULES:
        assert f"`{old}`" in text, old
    for old, new in compat.NAMES.items():
        assert any(f"`{old}`" in row and f".{new}`" in row for row in rows), old


def test_the_glossary_is_alphabetical_and_complete_enough():
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    terms = re.findall(r"^- \*\*(.+?)\*\*", text, re.M)
    keys = [re.sub(r"[^a-z0-9 ]", "", re.sub("[–-]", " ", term.casefold())).strip() for term in terms]
    assert keys == sorted(keys) and len(set(keys)) == len(keys) > 150
    for letter, block in re.findall(r"^## ([A-Z])\n(.*?)(?=^## |\Z)", text, re.M | re.S):
        assert all(term[0].upper() == letter for term in re.findall(r"^- \*\*(.+?)\*\*", block, re.M))
    wanted = (
        "retention, label model, posterior, LoRA, teacher, surprise, ring, consolidation, micro-batch, McNemar's test"
    )
    assert set(wanted.split(", ")) <= set(terms)


def commands(page):
    """The `icft-lite` command lines in the code blocks of a page."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("icft-lite ")]


@pages([page for page in GUIDES if commands(page)])
def test_commands_that_are_shown_are_understood(page):
    for arguments in commands(page):
        cli.build_parser(arguments[0]).parse_args(cli.write_lists(arguments))  # raises for an unknown option


def test_commands_are_found_in_the_readme():
    found = commands(ROOT / "README.md")
    assert {arguments[0] for arguments in found} >= {"doctor", "train", "evaluate", "compare", "chat", "export"}
