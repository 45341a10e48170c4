"""The sandbox, seen from outside: start it, send requests, watch its limits, end everything in it."""

import json
import os
import selectors
import shutil
import site
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from icft_lite.errors import ICFTError
from icft_lite.grading import isolate, shim

ISOLATIONS = {"full": "namespaces", "container": "user", "unprotected": ""}
"""Isolation, as it is written into results → mode of isolate.py; "" starts the program directly."""
SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/alternatives")
SCRATCH = "/scratch"
START_SECONDS = 60.0
CHECKS_PER_SECOND = 10


@dataclass(frozen=True)
class Limits:
    """What one submission may use."""

    cell_seconds: float = 120.0
    """Of one cell, and of one call of a student's function."""
    grace_seconds: float = 5.0
    """After that limit, until the sandbox is ended because it does not react."""
    total_seconds: float = 900.0
    memory_gib: float = 4.0
    """Resident memory of all processes together; shared libraries count in each process."""
    processes: int = 64
    """Processes and threads."""
    scratch_mib: int = 256
    """Files in the scratch folder, which are in memory."""


class SandboxEnded(Exception):
    """The sandbox has ended before it answered; the message says why."""


class Sandbox:
    """A process in isolation that executes cells and calls functions. Use as a context manager.

    isolation: a key of ISOLATIONS; package: the folder with the copy of icft_lite; files: a folder whose content the
    student's code finds in its working folder; deadline: time.monotonic() at which it is ended.
    Raises ICFTError if a protection is missing on this machine.
    """

    def __init__(self, isolation: str, package: Path, files: Path, limits: Limits, deadline: float) -> None:
        self.limits, self.deadline = limits, deadline
        self.folder = Path(tempfile.mkdtemp(prefix="icft-grade-"))
        self.folder.chmod(0o711)
        (self.folder / "root").mkdir()
        self.uid = student_uid()
        self.reason = ""
        plan = self.plan(ISOLATIONS[isolation], package, files)
        command = [sys.executable, "-I", "-S", isolate.__file__, json.dumps(plan)] if plan["mode"] else plan["program"]
        with (self.folder / "errors").open("wb") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=plan["environment"],
                cwd=self.folder if plan["mode"] else plan["scratch"],
                start_new_session=True,
                bufsize=0,
            )
        self.first = psutil.Process(self.process.pid)
        os.set_blocking(self.process.stdout.fileno(), False)  # type: ignore[union-attr]
        os.set_blocking(self.process.stdin.fileno(), False)  # type: ignore[union-attr]
        self.ended = threading.Event()
        self.watcher = threading.Thread(target=self.watch, daemon=True)
        self.watcher.start()
        try:
            self.receive(START_SECONDS)  # "ready"
        except SandboxEnded as end:
            self.close()
            if time.monotonic() > deadline:
                raise
            raise ICFTError(self.why_not(str(end))) from None

    def why_not(self, reason: str) -> str:
        """Return why the sandbox did not start."""
        if self.process.returncode != isolate.MISSING:
            last = self.errors.splitlines()[-1] if self.errors else "is there enough memory?"
            return f"the sandbox did not start: {reason} ({last})"
        return (
            f"student code cannot be isolated on this machine; missing: {'; '.join(self.errors.splitlines())}. Grade "
            "on Linux 5.12 or newer as root, or where user namespaces are enabled; --unsafe grades your own work only"
        )

    def plan(self, mode: str, package: Path, files: Path) -> dict[str, Any]:
        """Return what isolate.py does: mounts, the program with its environment, and limits of resources."""
        inside = mode == "namespaces"
        scratch = Path(SCRATCH) if inside else self.folder / "scratch"
        if not inside:
            scratch.mkdir(mode=0o700)
            if mode:
                os.chown(scratch, self.uid, self.uid)
        here, work = ("/package", "/submission") if inside else (str(package), str(files))
        sites = site_folders()
        python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
        program = [python, "-I", "-S", "-B", f"{here}/icft_lite/grading/shim.py", work, here, *sites]
        exposed = [path for path in (*SYSTEM, sys.base_prefix, *sites) if os.path.lexists(path)]
        return {
            "mode": mode,
            "root": str(self.folder / "root"),
            "mounts": [*((path, path) for path in exposed), (str(package), "/package"), (str(files), "/submission")],
            "hidden": [f"{folder}/icft_lite" for folder in sites],
            "scratch": str(scratch),
            "scratch_bytes": self.limits.scratch_mib * 2**20,
            "program": program,
            "environment": environment(str(scratch)),
            "uid": self.uid,
            "limits": {
                "NPROC": self.limits.processes,
                "CORE": 0,
                "NOFILE": 256,
                "FSIZE": self.limits.scratch_mib * 2**20,
            },
        }

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one request (see `shim.serve`) and return the answer. Raises SandboxEnded."""
        data = shim.pack(request)
        data = len(data).to_bytes(8, "little") + data
        end = time.monotonic() + request["seconds"] + self.limits.grace_seconds
        with selectors.DefaultSelector() as ready:
            ready.register(self.process.stdin, selectors.EVENT_WRITE)  # type: ignore[arg-type]
            while data:
                self.check(end)
                if ready.select(0.1):
                    try:
                        data = data[os.write(self.process.stdin.fileno(), data) :]  # type: ignore[union-attr]
                    except BlockingIOError:
                        continue
                    except OSError:
                        self.stop("it ended by itself")
        return self.receive(end - time.monotonic())

    def receive(self, seconds: float) -> dict[str, Any]:
        """Return the next answer. Raises SandboxEnded if there is none in time, or if it is not acceptable."""
        end, data, length = time.monotonic() + seconds, bytearray(), 8
        stream: Any = self.process.stdout
        with selectors.DefaultSelector() as ready:
            ready.register(stream, selectors.EVENT_READ)
            while len(data) < length:
                self.check(end)
                if not ready.select(0.1):
                    continue
                chunk = os.read(stream.fileno(), min(length - len(data), 2**20))
                if not chunk:
                    self.stop("it ended by itself")
                data += chunk
                if length == 8 == len(data):
                    length += int.from_bytes(data, "little")
                    if length > 8 + shim.MAX_BYTES:
                        self.stop(f"it sent more than {shim.MAX_BYTES // 2**20} MiB")
        try:
            answer = shim.unpack(bytes(data[8:]))
        except (ValueError, MemoryError):
            answer = None
        if not isinstance(answer, dict):
            self.stop("it sent a message that is not valid")
        return answer

    def check(self, end: float) -> None:
        """Raise SandboxEnded if the watcher has ended the sandbox, or after the time `end`."""
        if self.reason:
            self.stop(self.reason)
        if time.monotonic() > end:
            self.stop("it did not answer in time")

    def stop(self, reason: str) -> None:
        """End the sandbox. Raises SandboxEnded with the watcher's reason, if there is one, or `reason`."""
        self.reason = self.reason or reason
        self.kill()
        raise SandboxEnded(self.reason)

    def watch(self) -> None:
        """End the sandbox when it uses too much memory, time or processes."""
        while not self.ended.wait(1 / CHECKS_PER_SECOND):
            tree = self.tree()
            if sum(map(resident, tree)) > self.limits.memory_gib * 2**30:
                self.reason = self.reason or f"it used more than {self.limits.memory_gib:g} GiB of memory"
            elif len(tree) > self.limits.processes:
                self.reason = self.reason or f"it started more than {self.limits.processes} processes"
            elif time.monotonic() > self.deadline:
                self.reason = self.reason or "the time for the whole submission is used up"
            if self.reason:
                self.kill()

    def tree(self) -> list[psutil.Process]:
        """Return all processes of the sandbox. Orphans are below the first one: see PR_SET_SUBREAPER in isolate.py."""
        try:
            return [self.first, *self.first.children(recursive=True)]
        except psutil.NoSuchProcess:  # all have ended
            return []

    def kill(self) -> None:
        """Kill all processes of the sandbox, and no other.

        psutil.Process objects are bound to the time of a process's start, so a number that the system has given to
        another process is never killed. isolate.py ends what is left when its first child has ended.
        """
        for one in self.tree()[1:] or [self.first]:
            with suppress(psutil.NoSuchProcess):  # it has ended by itself
                one.kill()

    def close(self) -> None:
        """End the sandbox and remove its folder."""
        self.ended.set()
        self.watcher.join()
        self.kill()
        try:
            self.process.wait(self.limits.grace_seconds)
        except subprocess.TimeoutExpired:
            self.first.kill()
            self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            stream.close()  # type: ignore[union-attr]
        self.errors = (self.folder / "errors").read_text(errors="replace")[:1000].strip()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def site_folders() -> list[str]:
    """Return the folders with installed packages that this Python uses."""
    folders = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    return list(dict.fromkeys(os.path.realpath(one) for one in folders if Path(one).is_dir()))


def environment(scratch: str) -> dict[str, str]:
    """Return the environment of student code: nothing of the grader's."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"), "1")
    own = dict.fromkeys(("HOME", "TMPDIR", "IPYTHONDIR", "MPLCONFIGDIR"), scratch)
    return {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "USER": "student",
        "MPLBACKEND": "Agg",
        **threads,
        **offline,
        **own,
    }


def resident(process: psutil.Process) -> int:
    """Return the resident memory of a process in bytes; 0 if it has ended."""
    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0


def student_uid() -> int:
    """Return the uid of student code: one that no account has, or the one inside a user namespace (see isolate.py)."""
    return 64000 + os.getpid() % 1000 if os.geteuid() == 0 else 1000


def check_unexposed(isolation: str, paths: Iterable[Path]) -> None:
    """Raise ICFTError if student code could read one of the paths."""
    exposed = [os.path.realpath(one) for one in (*SYSTEM, sys.base_prefix, *site_folders())]
    for path in paths:
        place = Path(os.path.realpath(path))
        if isolation == "full" and any(Path(one) in (place, *place.parents) for one in exposed):
            raise ICFTError(f"{path}: it is in a folder that student code can read; move it to your home folder")
        if isolation == "container" and as_student("test", "-r", str(place)) == 0:
            raise ICFTError(f"{path}: the user of student code can read it; run `chmod -R go= {path}`")


def as_student(*command: str) -> int:
    """Run a command as the user of student code, and return its exit code. Needs root."""
    uid = student_uid()
    return subprocess.run(command, user=uid, group=uid, extra_groups=[], cwd="/", check=False).returncode
