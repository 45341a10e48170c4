# Set-up: installs the package where it is missing (Colab). Nothing to edit.
import subprocess
import sys
from importlib import import_module, invalidate_caches
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

if find_spec("icft_lite") is None:
    wheels = sorted(Path().glob("icft_lite-*.whl"))  # a wheel in this folder is preferred: it needs no network
    package = str(wheels[-1]) if wheels else "icft-lite @ git+{{repository}}"
    pins = [f"{name}=={version(name)}\n" for name in ("torch", "numpy") if find_spec(name)]
    Path("pins.txt").write_text("".join(pins))  # pip must not replace these
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-c", "pins.txt", package], check=True)
    invalidate_caches()

_ = import_module("icft_lite")  # before other imports: it suppresses a bitsandbytes notice that is irrelevant here
