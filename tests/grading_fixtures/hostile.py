"""Hostile submissions: what each tries, its cells, and what it may get.

A cell that finds something secret, or succeeds in something forbidden, writes it into `answer`, the written answer that
the grader passes on. So `answer` must be empty. @NAMES@ are replaced by the test.

Attacks are harmless when they succeed: they must not damage the machine of a developer whose isolation is broken. They
read, write new files, connect to a server of the test, and send signal 0. Attacks on memory, processes and time are
executed with isolation only, after `Grader.check_isolation`.
"""

from dataclasses import dataclass

from . import RIGHT_CLASS, RIGHT_FUNCTION


@dataclass(frozen=True)
class Hostile:
    """One submission. `score`: points that it must get; those above 0 have correct work in them."""

    tries: str
    cells: tuple[str, ...]
    score: float = 0.0
    """Of 5 automatic points: 3 for the function, 2 for the class."""
    feedback: str = ""
    """Must be in the feedback or the notes."""


BOTH = (RIGHT_FUNCTION, RIGHT_CLASS)
ATTEMPTS = """
answer = ""

def attempt(work):
    global answer
    try:
        answer += f"{work.__name__}: {work()!r}\\n"
    except BaseException as error:
        pass
"""
WRONG = "def calibration_error(probs, gold, bins): return 0.5\n" + RIGHT_CLASS.replace("/ len", "/ 2 / len")
DESCRIPTORS = """
import os, stat
pipes = [n for n in range(3, 256) if os.path.exists(f"/proc/self/fd/{n}") and stat.S_ISFIFO(os.fstat(n).st_mode)]
"""

SUBMISSIONS = {
    # --- broken and greedy
    "broken": Hostile("cells that do not parse or that raise", ("def f(:", "1 / 0", *BOTH), 5, feedback="SyntaxError"),
    "endless_cell": Hostile("a cell that never ends", (*BOTH, "while True: pass"), 5, feedback=" seconds"),
    "deaf_loop": Hostile(
        "an endless cell that catches the time limit and switches it off",
        (*BOTH, "import signal\nsignal.setitimer(signal.ITIMER_REAL, 0)\nwhile True:\n  try:\n    while True: pass\n  "
         "except BaseException: pass"), 5, feedback="did not answer in time"),
    "endless_function": Hostile("a function that never ends",
        (RIGHT_CLASS, "def calibration_error(*a, **k):\n  while True: pass"), 2, feedback=" seconds"),
    "memory_cell": Hostile("a cell that fills the memory", (*BOTH, "x = b'1' * 3 * 2**30"), 5, feedback="of memory"),
    "memory_function": Hostile("a function that fills the memory",
        (RIGHT_CLASS, "def calibration_error(*a, **k): return b'1' * 3 * 2**30"), 2, feedback="of memory"),
    "memory_children": Hostile("memory in many processes, each below the limit",
        (*BOTH, "import os, time\nfor i in range(12):\n  if not os.fork():\n    x = b'1' * 60 * 2**20; time.sleep(9)\n"
         "time.sleep(9)"), 5, feedback="of memory"),
    "memory_behind_processes": Hostile("memory, while processes start and end all the time",
        (*BOTH, "import os\nif not os.fork():\n  while True:\n    if pid := os.fork(): os.waitpid(pid, 0)\n    else: os._exit(0)\n"
         "x = b'1' * 3 * 2**30"), 5, feedback="of memory"),
    "output": Hostile("100 MB of output",
        ("import sys\nfor i in range(100): sys.stdout.write('x' * 2**20); sys.stderr.write('y' * 2**20)", *BOTH), 5),
    "disk": Hostile("fill the disk",
        (ATTEMPTS, "def fill():\n  with open('big', 'wb') as f:\n    for i in range(60): f.write(bytes(2**20))\n"
         "  return 'wrote 60 MiB'\nattempt(fill)", "import os\n_ = os.path.exists('big') and os.remove('big')", *BOTH), 5),
    "fork_bomb": Hostile("a fork bomb", (*BOTH, "import os\nwhile True: os.fork()"), 5),
    "threads": Hostile("thousands of threads", ("import threading, time\nfor i in range(5000): "
        "threading.Thread(target=time.sleep, args=(9,), daemon=True).start()", *BOTH), 5, feedback="RuntimeError"),
    # --- ends the process
    "os_exit_cell": Hostile("end the process in a cell", (*BOTH, "import os; os._exit(0)"), 5, feedback="ended by itself"),
    "sys_exit": Hostile("leave in a cell and in a function", ("import sys; sys.exit(0)", RIGHT_CLASS,
        "def calibration_error(*a, **k): sys.exit(0)"), 2, feedback="raised SystemExit"),
    "os_exit_function": Hostile("end the process with success instead of an answer", (RIGHT_CLASS,
        "import os\ndef calibration_error(*a, **k): os._exit(0)"), 2, feedback="ended by itself"),
    "crash": Hostile("crash the interpreter", (*BOTH, "import ctypes; ctypes.string_at(0)"), 5, feedback="ended by itself"),
    "signals": Hostile("send signals to the grader, its parent and all other processes", (ATTEMPTS, """
import os
def others():
    found = []
    for pid in {os.getppid(), *(int(n) for n in os.listdir("/proc") if n.isdigit())} - {0, 1, os.getpid()}:
        try: os.kill(pid, 0)  # signal 0 only asks whether a signal may be sent
        except OSError: continue
        found.append(pid)
    return found or 1 / 0
attempt(others)
""", *BOTH), 5),
    # --- values
    "always_equal": Hostile("an object that equals everything", (
        "class Any(float):\n  __eq__ = __le__ = __ge__ = lambda *a: True\n  __sub__ = __rsub__ = __abs__ = lambda *a: 0.0\n"
        "def calibration_error(*a, **k): return Any('nan')\nclass RunningMean:\n  def __init__(self, s): pass\n"
        "  def add(self, v): return Any(0)",)),
    "pickle": Hostile("a pickle that runs code in the grader", (
        "import pickle, numpy as np\nclass Evil:\n  def __reduce__(self): return (eval, ('1/0',))\n"
        "def calibration_error(*a, **k): return np.array([Evil()], dtype=object)\n"
        "class RunningMean:\n  def __init__(self, s): pass\n  def add(self, v): return pickle.dumps(Evil())",),
        feedback="TypeError"),
    "nested": Hostile("a result that is nested too deep to decode", (
        "def calibration_error(*a, **k):\n  x = []\n  for i in range(900): x = [x]\n  return x",), feedback="RecursionError"),
    "huge_array": Hostile("a result that is larger than a message may be", (
        "import numpy as np\ndef calibration_error(*a, **k): return np.zeros(10**7)",), feedback="more than"),
    "nan": Hostile("NaN, infinity and huge numbers", (
        "def calibration_error(*a, **k): return float('nan')\nclass RunningMean:\n  def __init__(self, s): pass\n"
        "  def add(self, v): return 10**400",), feedback="NaN"),
    # --- patches
    "patched": Hostile("patch builtins, numpy, torch and json", (WRONG, """
import builtins, json, sys, types
import numpy as np
yes = lambda *a, **k: True
np.allclose = np.isclose = np.array_equal = np.testing.assert_allclose = yes
builtins.all = builtins.any = builtins.isinstance = yes
sys.modules["torch"] = types.SimpleNamespace(allclose=yes, equal=yes)
"""), feedback="wrong"),
    "grader_names": Hostile("replace the grader's modules and names", (WRONG, """
import sys, types
fake = types.ModuleType("fake")
fake.__getattr__ = lambda name: (lambda *a, **k: "")
for name in ("parts", "grader", "results", "sandbox", "shim", "batch"):
    sys.modules[f"icft_lite.grading.{name}"] = fake
main = sys._getframe(0)
while main.f_back:
    main = main.f_back
main.f_globals.update(perform=lambda *a: {"value": 1}, check_part=lambda *a: "", close=lambda *a: "")
"""), feedback=""),
    "results_file": Hostile("write the results itself", (WRONG, """
import json, os
for name in ("results.json", "results.csv", "/autograder/results/results.json", "../results.json"):
    try:
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        open(name, "w").write(json.dumps({"score": 100, "tests": []}))
    except OSError: pass
"""), feedback="wrong"),
    "channel_forged": Hostile("answer requests before they are sent", (WRONG, DESCRIPTORS + """
import json
for value in (None, 0.0, {"value": 1.0}, {"d": [["value", 1.0]]}, {"d": [["points", 100], ["value", True]]}):
    text = json.dumps(value).encode()
    data = len(text).to_bytes(4, "little") + text
    for n in pipes:
        try: os.write(n, len(data).to_bytes(8, "little") + data)
        except OSError: pass
""")),
    "channel_flood": Hostile("flood the channel with garbage", (WRONG, DESCRIPTORS + """
for n in pipes:
    try:
        for i in range(100): os.write(n, b"\\xff" * 2**16)
    except OSError: pass
"""), feedback="64 MiB"),
    "channel_pickle": Hostile("claim an array with an object dtype and a shape that is too large", (WRONG, DESCRIPTORS + """
import json
for value in ({"a": ["object", [1]]}, {"a": ["float64", [2**40, 2**40]]}, {"a": ["float64", [-1]]}):
    text = json.dumps({"d": [["value", value]]}).encode()
    data = len(text).to_bytes(4, "little") + text
    for n in pipes:
        try: os.write(n, len(data).to_bytes(8, "little") + data)
        except OSError: pass
"""), feedback="not valid"),
    # --- reads and writes what it should not
    "hidden_tests": Hostile("find the specification and its expected values", (ATTEMPTS, """
import gc, os, subprocess
def search():
    found = []
    skipped = ("/proc", "/sys", "/usr", "/dev")
    for folder, folders, files in os.walk("@TOP@"):
        folders[:] = [f for f in folders if os.path.join(folder, f) not in skipped and "site-packages" not in folder]
        for name in files:
            try: text = open(os.path.join(folder, name), errors="replace").read(10**6)
            except OSError: continue
            found += [os.path.join(folder, name)] if ("MARKER" + " = ") in text else []
    return found or 1 / 0
def in_memory():
    return [x for x in gc.get_objects() if isinstance(x, dict) and x.get("MARKER")] or 1 / 0
attempt(search); attempt(in_memory)
""")),
    "environment": Hostile("read secrets from environments", (ATTEMPTS, """
import glob, os
def read():
    paths = glob.glob("/proc/@PID@/environ")
    return [path for path in paths if "ICFT_TEST" + "_SECRET" in open(path, errors="replace").read()] or 1 / 0
attempt(read)
""")),
    "other_submission": Hostile("read the submission of another student", (ATTEMPTS, """
import os
def search():
    found = []
    for top in ("@TOP@", "@SUBMISSIONS@"):
        for folder, folders, files in os.walk(top):
            folders[:] = [f for f in folders if os.path.join(folder, f) not in ("/proc", "/usr")]
            folders[:] = [f for f in folders if "site-packages" not in folder]
            found += [os.path.join(folder, name) for name in files if name.endswith(".ipynb")]
    return found or 1 / 0
attempt(search)
""")),
    "writes_outside": Hostile("write outside its folder, into packages and the home folder", (ATTEMPTS, """
import os
def write(place):
    def work():
        with open(os.path.join(place, "hostile.txt"), "w") as f: f.write("x")
        return place
    return work
for place in "@PLACES@".split(":"): attempt(write(place))
""")),
    "privileges": Hostile("gain privileges: namespaces, root, setuid programs, ptrace, chroot", (ATTEMPTS, """
import ctypes, os, subprocess
libc = ctypes.CDLL(None)
def namespace(): return libc.unshare(0x10000000) == 0 or 1 / 0
def network(): return libc.unshare(0x40000000) == 0 or 1 / 0
def root(): return os.setuid(0)
def su(): return subprocess.run(["/usr/bin/su", "-c", "id"], check=True, stdin=subprocess.DEVNULL, timeout=1)
def trace(): return libc.ptrace(16, 1, 0, 0) == 0 or 1 / 0
def chroot(): return os.chroot("/tmp")
def remount(): return libc.mount(b"none", b"/package", None, 32 | 4096, None) == 0 or 1 / 0
def caps(): return [l for l in open("/proc/self/status") if l.startswith("CapEff") and int(l[7:], 16)] or 1 / 0
def in_child(work):  # what succeeds must not keep this process from reporting it
    def child():
        if pid := os.fork():
            return os.waitpid(pid, 0)[1] == 0 or 1 / 0
        try: work()
        except BaseException: os._exit(1)
        os._exit(0)
    child.__name__ = work.__name__
    return child
for work in (namespace, network, root, su, trace, chroot, remount, caps): attempt(in_child(work))
""")),
    "network": Hostile("reach the network, and the host over abstract sockets", (ATTEMPTS, """
import socket, urllib.request
def tcp(): return socket.create_connection(("127.0.0.1", int("@PORT@")), timeout=1).getsockname()
def abstract():
    s = socket.socket(socket.AF_UNIX); s.connect("\\0icft-test-@PORT@"); return s.getpeername()
attempt(tcp); attempt(abstract)
""")),
    "over_restarts": Hostile("leave data for the next start of the sandbox", (ATTEMPTS, """
import glob, os
def left(): return glob.glob("/scratch/left") + glob.glob("/dev/shm/left") + glob.glob("/tmp/icft-left") or 1 / 0
attempt(left)
""", """
for place in ("left", "/dev/shm/left", "/tmp/icft-left"):
    try: open(place, "w").write("inputs of earlier calls")
    except OSError: pass
os._exit(0)
"""), feedback="ended by itself"),
    # --- the package's own solution
    "import_solution": Hostile("import the package's solution", (
        "import numpy as np\nfrom icft_lite.metrics import expected_calibration_error as e\n"
        "def calibration_error(p, gold, bins): return e(np.stack([1 - p, p], 1), gold, bins)",), feedback="not available"),
    "read_solution": Hostile("execute the package's source, or its compiled file, from the disk", (ATTEMPTS, """
import glob, inspect, marshal, os, re, site, sys
import icft_lite.metrics as metrics
def source(): return "confidence * bins" in inspect.getsource(metrics) or 1 / 0
def compiled():
    files = [f for top in sys.path for f in glob.glob(f"{top}/icft_lite/**/metrics*.pyc", recursive=True)]
    return [f for f in files if b"bin_of" in open(f, "rb").read()] or 1 / 0
def installed():
    files = [f for top in sys.path for f in glob.glob(f"{top}/**/icft_lite/metrics.py", recursive=True)]
    return [f for f in files if "bin_of" in open(f).read()] or 1 / 0
attempt(source); attempt(compiled); attempt(installed)
""")),
}  # fmt: skip
