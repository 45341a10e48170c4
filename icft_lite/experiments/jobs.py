"""Several runs at a time: each is `icft-lite train` in a process of its own, with a part of the cores.

Two processes of one thread train faster than one process of two (2,750 tokens per second against 2,010 on two cores):
the matrix products of a small model are too small to be split efficiently over threads.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

import psutil
from tqdm import tqdm

from icft_lite.config import ICFTConfig, RuntimeConfig
from icft_lite.errors import ICFTError
from icft_lite.utils.config_parsing import flatten

TRAIN = [sys.executable, "-m", "icft_lite.cli", "train"]
MEMORY = {"tiny": 2 * 2**30, "smollm2": 6 * 2**30}
"""Bytes of memory that a run of these models may take: twice what lesson 00 measures, and 1.4 times the peak of the
demo on `smollm2`."""


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_jobs(runs: int, model: str) -> int:
    """Return how many runs to have at a time: as many as there are cores and memory for.

    1 on a GPU, and for any model but `tiny` and `smollm2`, whose needs are not known.
    """
    import torch  # here, since it takes seconds

    if model not in MEMORY or torch.cuda.is_available():
        return 1
    return max(1, min(runs, available_cores(), psutil.virtual_memory().available // MEMORY[model]))


def config_flags(config: ICFTConfig, runtime: RuntimeConfig | None = None) -> Iterator[str]:
    """Yield the options of `icft-lite train` for a configuration."""
    yield f"--method={config.method}"
    usual = flatten(ICFTConfig.preset(config.method, {"model": config.model}).to_dict())
    usual["model"] = ICFTConfig.model  # the command takes this one if none is given
    given = {name: value for name, value in flatten(config.to_dict()).items() if value != usual[name]}
    usual = RuntimeConfig().to_dict()
    given |= {
        f"runtime.{name}": value
        for name, value in (runtime.to_dict() if runtime else {}).items()
        if value != usual[name]
    }
    for name, value in given.items():
        if isinstance(value, list):  # as JSON, since an item may contain a comma
            yield f"--{name}={json.dumps(value)}"
        else:
            yield f"--set={name}={'none' if value is None else value}"


def run_jobs(
    configs: Mapping[Path, ICFTConfig],
    at_a_time: int,
    progress: bool = True,
    runtime: RuntimeConfig | None = None,
    data_options: Sequence[str] = (),
) -> None:
    """Train `at_a_time` runs at once; those that are complete are not run again.

    configs: {folder: ICFTConfig}. data_options: options of `icft-lite train` that read the data; without them it is the
    samples. Raises ICFTError with the message of the first run that failed; the others are stopped, and the same call
    resumes them.
    """
    threads = str(max(1, available_cores() // at_a_time))
    environment = dict(
        os.environ, OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads, PYTHONUNBUFFERED="1", PYTHONWARNINGS="ignore"
    )
    state: dict[str, str] = {}
    started: list[subprocess.Popen[str]] = []
    stop = threading.Event()
    line = tqdm(bar_format="{desc}", disable=not progress)

    def show(name: str, text: str) -> None:
        """Show the text of a progress bar in the line that all runs share; print anything else above it."""
        if bar := re.match(r"([\w ]+): *(\d+%)(?:.*<([\d:]+))?", text):
            state[name] = f"{name} {bar[1]} {bar[2]}" + (f", {bar[3]} left" if bar[3] else "")
            line.set_description_str(" · ".join(state.values()))
        elif text and progress:
            tqdm.write(f"{name}: {text}")

    def train(folder: Path, config: ICFTConfig) -> None:
        name, said = Path(folder).name, deque[str](maxlen=1)
        if stop.is_set():
            return
        process = subprocess.Popen(
            [*TRAIN, f"--out={folder}", *config_flags(config, runtime), *data_options],
            env=environment,
            text=True,
            encoding="utf-8",
            errors="replace",  # text=True: the \r of a progress bar ends a line too
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        started.append(process)
        for text in map(str.strip, process.stdout or ()):
            said.append(text)
            show(name, text)
        state.pop(name, None)
        if process.wait():
            stop.set()  # here, or this thread might start the next run before the error is seen
            what = said.pop().removeprefix("icft-lite: ") if said else f"stopped with code {process.returncode}"
            if process.returncode < 0:  # what it said last is its progress
                what = f"was killed by signal {-process.returncode}, perhaps for lack of memory; use fewer --jobs"
            raise ICFTError(what if what.startswith(f"{folder}: ") else f"{folder}: {what}")

    with line, _sigterm_as_exception(), ThreadPoolExecutor(at_a_time) as pool:
        waiting = {pool.submit(train, folder, config) for folder, config in configs.items()}
        try:
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for one in done:
                    one.result()
        except BaseException:
            stop.set()
            for process in started:
                with contextlib.suppress(OSError):
                    process.terminate()
            raise


@contextlib.contextmanager
def _sigterm_as_exception() -> Iterator[None]:
    """Turn SIGTERM into SystemExit in the block, so that its runs are stopped too."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set signal handlers
        yield
        return

    def leave(*_: object) -> None:
        sys.exit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
