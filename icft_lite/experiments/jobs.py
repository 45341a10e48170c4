"""Several runs at a time: each is `icft-lite train` in a process of its own, on its share of the cores.

Two processes of one thread do more than one of two (2,750 tokens a second in place of 2,010, where it was measured): a
small model's products are too short to share well.
"""

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections import deque
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path

import psutil
from tqdm import tqdm

from icft_lite.config import ICFTConfig
from icft_lite.errors import ICFTError

TRAIN = [sys.executable, "-m", "icft_lite.cli", "train"]
MEMORY = 2 * 2**30
"""Bytes that a run of the embedded base may take, all told: twice what lesson 00 measures."""


def available_cores():
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_jobs(runs, model):
    """Runs to have at a time: as many as there are cores, and memory, for one each. 1 on a GPU, and for any model but
    the embedded one, whose needs are not known."""
    import torch  # here, since it takes seconds

    if model != "tiny" or torch.cuda.is_available():
        return 1
    return max(1, min(runs, available_cores(), psutil.virtual_memory().available // MEMORY))


def config_flags(config):
    """The command line's flags for an ICFTConfig."""
    usual = ICFTConfig(method=config.method)
    for name, value in vars(config).items():
        if name == "method" or value != getattr(usual, name):
            yield f"--set={name}={','.join(value) if isinstance(value, tuple) else value}"


def run_jobs(configs, at_a_time, progress=True):
    """Train on the samples, `at_a_time` runs at once; those that are complete already are not run again.

    configs: {folder: ICFTConfig}. Raises ICFTError with what the first run said that failed; the others are stopped,
    and the same call again resumes them."""
    threads = str(max(1, available_cores() // at_a_time))
    environment = dict(
        os.environ, OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads, PYTHONUNBUFFERED="1", PYTHONWARNINGS="ignore"
    )
    state, started, stop = {}, [], threading.Event()
    line = tqdm(bar_format="{desc}", disable=not progress)

    def show(name, text):
        """A bar's text goes into the one line of them all; anything else stays on the screen."""
        if bar := re.match(r"(stage \d+): *(\d+%)", text):
            state[name] = f"{name} {bar[1]} {bar[2]}"
            line.set_description_str(" · ".join(state.values()))
        elif text and progress:
            tqdm.write(f"{name}: {text}")

    def train(folder, config):
        name, said = Path(folder).name, deque(maxlen=1)
        if stop.is_set():
            return
        process = subprocess.Popen(
            [*TRAIN, f"--out={folder}", *config_flags(config)],
            env=environment,
            text=True,
            encoding="utf-8",
            errors="replace",  # text=True: a bar's \r ends a line too
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        started.append(process)
        for text in map(str.strip, process.stdout):
            said.append(text)
            show(name, text)
        state.pop(name, None)
        if process.wait():
            stop.set()  # here, or this thread might begin the next run before anyone hears of it
            what = said.pop().removeprefix("icft-lite: ") if said else f"stopped with code {process.returncode}"
            raise ICFTError(f"{folder}: {what}")

    with line, ThreadPoolExecutor(at_a_time) as pool:
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
