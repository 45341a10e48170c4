# Set-up: installs the package where it is missing (Colab). Nothing to edit.
import subprocess
import sys
from importlib import import_module, invalidate_caches
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

if find_spec("icft_lite") is None:
    wheels = sorted(Path().glob("icft_lite-*.whl"))  # a wheel beside the notebook goes first: no network
    package = str(wheels[-1]) if wheels else "icft-lite @ git+{{repository}}"
    keep = [f"{name}=={version(name)}\n" for name in ("torch", "numpy") if find_spec(name)]
    Path("keep.txt").write_text("".join(keep))  # these stay as they are
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-c", "keep.txt", package], check=True)
    invalidate_caches()

import_module("icft_lite")  # first of all: it keeps a notice of bitsandbytes, which means nothing here, off the page
