"""The process in the sandbox: executes the student's cells, then calls their functions on inputs sent as plain data.

It imports nothing of icft_lite: the sandbox executes this file alone. Student code can change everything in this
process, so the grader trusts no message from it: it decodes plain data (no pickle) and compares values.

A frame is 8 bytes with its length, then a message. A message is 4 bytes with the length of a JSON text, the text, and
the raw bytes of the arrays in the order of the text. In the text a tuple is {"t": items}, a dict {"d": pairs}, an array
{"a": [dtype, shape]}.
"""

import json
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32",
          "float64")  # fmt: skip
MAX_TEXT, MAX_BYTES = 2 * 2**20, 64 * 2**20
"""Bytes that the JSON text and a whole message may have."""


class OutOfTime(BaseException):
    """Raised in student code at its time limit; `except Exception` does not catch it."""


def plain(value: Any) -> Any:
    """Return a copy of `value` as plain data: None, bool, int, float, str, list, tuple, dict, NumPy arrays.

    Tensors become arrays (bfloat16 as float32), NumPy scalars Python numbers. Raises TypeError for anything else.
    """
    import numpy as np

    if value is None or isinstance(value, bool | int | float | str):
        return next((kind(value) for kind in (bool, int, float, str) if isinstance(value, kind)), None)
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if type(value).__module__.split(".")[0] == "torch" and hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    if isinstance(value, np.ndarray) and value.dtype.name in DTYPES:
        return np.array(value)
    detail = f" with dtype {value.dtype}" if isinstance(value, np.ndarray) else ""
    raise TypeError(
        f"{type(value).__name__}{detail} is returned; return numbers, text, lists, dicts, arrays or tensors"
    )


def pack(value: Any) -> bytes:
    """Return plain data as a message."""
    blobs: list[bytes] = []

    def tree(item: Any) -> Any:
        if isinstance(item, tuple):
            return {"t": [tree(one) for one in item]}
        if isinstance(item, list):
            return [tree(one) for one in item]
        if isinstance(item, dict):
            return {"d": [[tree(key), tree(one)] for key, one in item.items()]}
        if hasattr(item, "dtype"):
            blobs.append(item.tobytes())
            return {"a": [item.dtype.name, list(item.shape)]}
        return item

    text = json.dumps(tree(value)).encode()
    return b"".join([len(text).to_bytes(4, "little"), text, *blobs])


def unpack(data: bytes) -> Any:
    """Return the plain data in a message. Sizes, shapes and dtypes are checked before an array is read.

    Raises ValueError for anything that `pack` does not write.
    """
    end = 4 + int.from_bytes(data[:4], "little")
    if len(data) > MAX_BYTES or not 4 <= end <= min(len(data), 4 + MAX_TEXT):
        raise ValueError("the message is too long or cut")
    position = end

    def value(item: Any) -> Any:
        nonlocal position
        if isinstance(item, list):
            return [value(one) for one in item]
        if isinstance(item, int) and not -(2**63) <= item < 2**64:
            raise ValueError("an int needs more than 64 bits")
        if not isinstance(item, dict):
            return item
        ((tag, content),) = item.items()
        if tag == "t":
            return tuple(value(one) for one in content)
        if tag == "d":
            return {value(key): value(one) for key, one in content}
        name, shape = content
        if tag != "a" or name not in DTYPES or not all(type(n) is int and 0 <= n <= MAX_BYTES for n in shape):
            raise ValueError("an array has an unknown dtype or shape")
        import numpy as np

        start, position = position, position + math.prod(shape) * np.dtype(name).itemsize
        if len(shape) > 8 or position > len(data):
            raise ValueError("an array is longer than the message")
        return np.frombuffer(data[start:position], name).reshape(shape).copy()

    try:
        return value(json.loads(data[4:end]))
    except (RecursionError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"the message is damaged ({type(error).__name__})") from None


def perform(target: Any, call: Mapping[str, Any]) -> Any:
    """Make one call and return its result as plain data.

    target: a function, or a class if the call has `then`; for an empty call, a value to return.
    call: the fields of `icft_lite.grading.parts.Call`.
    """
    if not call:
        return plain(target)
    convert = to_tensors if call["torch"] else plain
    made = target(*convert(call["args"]), **convert(call["kwargs"]))
    if not call["then"]:
        return plain(made)
    members = ((getattr(made, name), args) for name, args in call["then"])
    return [plain(member(*convert(args)) if callable(member) else member) for member, args in members]


def to_tensors(value: Any) -> Any:
    """Return a copy of plain data with arrays as torch tensors."""
    import torch

    if isinstance(value, list | tuple):
        return type(value)(to_tensors(item) for item in value)
    if isinstance(value, dict):
        return {key: to_tensors(item) for key, item in value.items()}
    return torch.from_numpy(value.copy()) if hasattr(value, "dtype") else value


def write_frame(stream: BinaryIO, value: Any) -> None:
    """Write plain data as one frame."""
    data = pack(value)
    stream.write(len(data).to_bytes(8, "little") + data)
    stream.flush()


def read_frames(stream: BinaryIO) -> Iterator[Any]:
    """Yield the plain data of each frame until the stream ends."""
    while len(length := stream.read(8)) == 8:
        yield unpack(stream.read(int.from_bytes(length, "little")))


def described(error: BaseException) -> str:
    """Return the type and the beginning of the message of an exception."""
    try:
        return f"{type(error).__name__}: {error}"[:500].removesuffix(": ")
    except Exception:  # its __str__ is the student's too
        return "an exception that cannot be printed"


def limited(request: dict[str, Any], work: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Return `work(request)`; or {"error": text}, also when it takes more than request["seconds"]."""
    try:
        signal.setitimer(signal.ITIMER_REAL, request["seconds"])
        try:
            return work(request)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except OutOfTime:
        return {"error": f"more than {request['seconds']:g} seconds"}
    except BaseException as error:
        return {"error": described(error)}


def serve() -> None:
    """Answer requests until the grader closes the channel.

    {"cell": source, "seconds": s} → {"error": text or ""}; {"call": fields of Call, "name": name, "seconds": s} →
    {"value": result, "seconds": duration} or {"error": text}.
    """
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)  # output of student code is discarded, so it cannot flood anything
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)

    def stop(*_: Any) -> None:
        raise OutOfTime

    signal.signal(signal.SIGALRM, stop)
    from IPython.core.interactiveshell import InteractiveShell

    class Shell(InteractiveShell):
        def enable_gui(self, gui: Any = None) -> None:
            """Accept `%matplotlib` and `%gui`: there is no display, and figures are not kept."""

    shell = Shell.instance()
    write_frame(answers, {"ready": True})

    def run_cell(request: dict[str, Any]) -> dict[str, Any]:
        result = shell.run_cell(request["cell"])
        error = result.error_before_exec or result.error_in_exec
        if isinstance(error, OutOfTime):
            raise error
        return {"error": described(error) if error else ""}

    def run_call(request: dict[str, Any]) -> dict[str, Any]:
        name = request["name"]
        if name not in shell.user_ns:
            return {"error": f"NameError: the notebook defines no {name}"}
        start = time.perf_counter()
        return {"value": perform(shell.user_ns[name], request["call"]), "seconds": time.perf_counter() - start}

    for request in read_frames(requests):
        write_frame(answers, limited(request, run_cell if "cell" in request else run_call))


if __name__ == "__main__":
    submission, *folders = sys.argv[1:]
    sys.path[:1] = folders  # instead of the folder of this file
    shutil.copytree(submission, ".", dirs_exist_ok=True, copy_function=shutil.copyfile)
    serve()
