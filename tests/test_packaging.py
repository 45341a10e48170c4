"""The package: lazy imports, public names, type information, dependencies declared once, samples and embedded model."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import icft_lite

PACKAGE = Path(icft_lite.__file__).parent
ROOT = PACKAGE.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def python(code):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout


def name_of(requirement):
    return re.match(r"[\w-]+", requirement)[0].lower()


@pytest.mark.parametrize(
    "code",
    [
        "import icft_lite",
        "from icft_lite import ICFTConfig, RuntimeConfig, ICFTError, PRESETS; ICFTConfig.preset('qlora').to_dict()",
        "from icft_lite.cli import build_parser; build_parser('train').format_help()",
    ],
)
def test_light_imports_stay_light(code):
    heavy = {"torch", "transformers", "datasets", "numpy", "pandas"}
    assert python(f"import sys; {code}; print(*{heavy} & set(sys.modules))").strip() == ""


def test_every_public_name_exists():
    for name in icft_lite.__all__:
        assert getattr(icft_lite, name) is not None
    assert len(set(icft_lite.__all__)) == len(icft_lite.__all__) and set(icft_lite.__all__) <= set(dir(icft_lite))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = icft_lite.nothing


def test_type_checkers_see_every_public_name():
    """The names under TYPE_CHECKING are those of `__all__`, from the same modules."""
    names = {}
    for node in ast.walk(ast.parse(Path(icft_lite.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("icft_lite."):
            names |= {alias.asname: node.module for alias in node.names if alias.asname == alias.name}
    assert set(names) == set(icft_lite.__all__) - {"__version__"}
    for name, module in names.items():
        assert getattr(importlib.import_module(module), name) is getattr(icft_lite, name)


def test_the_package_has_type_information():
    assert (ROOT / "icft_lite" / "py.typed").is_file()


def test_conda_and_constraints_list_the_dependencies_of_pyproject():
    everything = [*PROJECT["dependencies"], *(r for extra in EXTRAS.values() for r in extra)]
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    assert f"python{PROJECT['requires-python']}" in conda
    assert sorted(conda[-1]["pip"]) == sorted(set(everything))
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert {name_of(pin) for pin in pins if not pin.startswith("#")} == {name_of(r) for r in everything}


def test_every_import_is_declared():
    declared = {name_of(r).replace("-", "_") for r in PROJECT["dependencies"]} | {"yaml"} - {"pyyaml"}
    known = {*sys.stdlib_module_names, "icft_lite"}
    for path in sorted((ROOT / "icft_lite").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module]
                if isinstance(node, ast.ImportFrom) and not node.level
                else []
            )
            for module in {name.split(".")[0] for name in names} - known:
                assert module.lower() in declared, f"{path.name} imports {module}, which pyproject.toml does not list"


def test_licenses_samples_and_the_embedded_model_exist():
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "CC BY 4.0" in (ROOT / "data_samples" / "LICENSE").read_text(encoding="utf-8")
    weights = list((ROOT / "icft_lite" / "tiny").glob("*.safetensors"))
    assert weights and sum(path.stat().st_size for path in weights) <= 16 * 2**20
    samples = [p for p in (ROOT / "data_samples").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert sum(p.stat().st_size for p in samples) <= 6 * 10**6


@pytest.mark.slow
def test_a_wheel_has_the_samples_the_model_and_type_information(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, ROOT]
    subprocess.run(command, check=True)
    inside = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    assert {"icft_lite/data_samples/general_test.jsonl", "icft_lite/py.typed"} <= inside
    assert "icft_lite/experiments/results/study.json" in inside
    assert any(re.fullmatch(r"icft_lite/tiny/.*\.safetensors", name) for name in inside)


OUTSIDE_CORE = (
    # replaced with the data or the model
    *("weak/lfs/", "tiny/", "modeling/smollm2.py", "data/chat_", "chat_checks.py"),
    # converts files of others to canonical examples and models
    *("data/files.py", "data/rows.py", "data/answers.py", "data/conversations.py", "data/formats.py"),
    *("data/conversion.py", "data/corpora/"),
    "modeling/gguf.py",
    # shows progress and results, runs experiments, grades assignments
    *("utils/progress.py", "grading/", "reporting/", "widgets/", "experiments/", "check.py", "doctor.py"),
    # the command
    *("cli.py", "cli_options.py", "command_data.py", "evaluate_command.py", "utils/launch.py"),
)


def test_files_of_the_package_stay_short():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {str(path): n for path, n in lengths.items() if n > 400} == {}


def test_the_core_stays_small():
    def statements(path):
        nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.stmt)]
        texts = [node for node in nodes if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)]
        imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
        return len(nodes) - len(texts) - len(imports)

    core = [path for path in PACKAGE.rglob("*.py") if not path.relative_to(PACKAGE).as_posix().startswith(OUTSIDE_CORE)]
    assert len(core) > 50 and sum(map(statements, core)) <= 4600
