"""Start a program in isolation, on Linux. The sandbox executes this file alone, with the standard library only.

    python -I -S isolate.py PLAN      # PLAN: JSON, see `icft_lite.grading.sandbox.plan`

Mode `namespaces` gives the program PID, mount, network, IPC and UTS namespaces of its own, and another uid (if started
by root) or a user namespace. Its root folder is an empty tmpfs with read-only mounts of the listed folders and one
writable scratch folder of limited size. Mode `user` is for a container that is thrown away after one submission, where
namespaces are not permitted: only another uid. Both set no_new_privs, a system call filter and resource limits.

Exits with MISSING and one line for each protection that is not available.
"""

import ctypes
import errno
import json
import os
import platform
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

MISSING = 125
"""Exit code: a protection is not available."""
UNAVAILABLE = (errno.EPERM, errno.EACCES, errno.ENOSYS)
"""Errors of the kernel that say that a protection is not available: it is forbidden, or unknown."""
libc = ctypes.CDLL(None, use_errno=True)
NAMESPACES = {"user": 0x10000000, "mount": 0x20000, "PID": 0x20000000, "network": 0x40000000, "IPC": 0x8000000,
              "UTS": 0x4000000}  # fmt: skip
"""Name → CLONE_NEW… flag of <sched.h>."""
RDONLY, NOSUID, NODEV, NOEXEC, BIND, REC, PRIVATE = 1, 2, 4, 8, 4096, 16384, 1 << 18
"""MS_… flags of <sys/mount.h>; the first three are equal to the MOUNT_ATTR_… flags of mount_setattr(2)."""
MOUNT_SETATTR, AT_RECURSIVE = 442, 0x8000
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 22, 36, 38
DEVICES = ("null", "zero", "full", "random", "urandom")
ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""Machine → (AUDIT_ARCH_… of <linux/audit.h>, column of SYSCALLS)."""
SYSCALLS = {
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "ptrace": (101, 117), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "io_uring_setup": (425, 425),
    "process_vm_writev": (311, 271), "open_by_handle_at": (304, 265), "fsopen": (430, 430), "open_tree": (428, 428),
}  # fmt: skip
"""System calls that fail with EPERM. New user namespaces would give student code capabilities inside them, and the
others are not needed. Beyond this list, clone is limited by its flags, and sockets to Unix sockets."""
SOCKET, CLONE, CLONE3 = (41, 198), (56, 220), (435, 435)


def check(result: int, what: str) -> None:
    """Raise OSError with the C library's errno unless `result` is 0."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def refuse(*lines: str) -> NoReturn:
    """Write what is missing and leave."""
    os.write(2, "\n".join(lines).encode())
    os._exit(MISSING)


def main(plan: dict[str, Any]) -> None:
    """Isolate, start the program, wait for it and exit with its status."""
    if sys.platform != "linux":
        refuse("Linux")
    as_root = os.geteuid() == 0
    if plan["mode"] == "user" and not as_root:
        refuse("root, to change to another user")
    if plan["mode"] == "namespaces":
        enter_namespaces([name for name in NAMESPACES if not (as_root and name == "user")])
    libc.prctl(PR_SET_SUBREAPER, 1, 0, 0, 0)  # orphans stay below this process, where they are counted and killed
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if child := os.fork():
        for descriptor in (0, 1):
            os.close(descriptor)  # so that the grader sees the end of the channel
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        end_children()
        os._exit(status & 0xFF)
    try:
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
        if plan["mode"] == "namespaces":
            build_root(plan)
        os.chdir(plan["scratch"])
        give_up_privileges(plan, as_root)
        os.execve(plan["program"][0], plan["program"], plan["environment"])
    except OSError as error:
        if error.errno in UNAVAILABLE:
            refuse(str(error))
        raise  # an error of this program: it must not look like a machine without the protection


def end_children() -> None:
    """Kill the children of this process until it has none; orphans below them become its children (PR_SET_SUBREAPER).

    In a PID namespace nothing is left to do: the kernel has ended the others with the first process.
    """
    while True:
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            if int(fields[1]) == os.getpid():
                os.kill(int(stat.parent.name), signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def enter_namespaces(names: list[str]) -> None:
    """Enter new namespaces; in a user namespace this user is uid 1000."""
    uid, gid = os.getuid(), os.getgid()
    failed = [
        f"{name} namespace: {os.strerror(ctypes.get_errno())}" for name in names if libc.unshare(NAMESPACES[name])
    ]
    if failed:
        refuse(*failed)
    if "user" in names:
        for file, text in (("setgroups", "deny"), ("uid_map", f"1000 {uid} 1"), ("gid_map", f"1000 {gid} 1")):
            Path("/proc/self", file).write_text(text, encoding="ascii")


def mount(source: str, target: Path, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Make a mount. Raises OSError."""
    check(libc.mount(source.encode(), bytes(target), kind.encode(), flags, options.encode()), f"mount {target}")


def restrict(path: Path, attributes: int, recursive: bool = True) -> None:
    """Set attributes of the mount at `path`, by default of those below it too (Linux 5.12)."""
    wanted = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)  # struct mount_attr: set, clear, propagation, userns_fd
    flags = AT_RECURSIVE if recursive else 0
    check(libc.syscall(MOUNT_SETATTR, -100, bytes(path), flags, ctypes.byref(wanted), 32), f"read-only mount {path}")


def build_root(plan: dict[str, Any]) -> None:
    """Make a tmpfs with the planned mounts the root folder."""
    root, uid, scratch = Path(plan["root"]), plan["uid"], plan["scratch"]
    inside = {path: root / path.lstrip("/") for path in (*(to for _, to in plan["mounts"]), *plan["hidden"], scratch)}
    os.umask(0o022)
    mount("none", Path("/"), flags=REC | PRIVATE)
    mount("tmpfs", root, "tmpfs", NOSUID | NODEV, "size=1m,mode=755")
    for source, to in plan["mounts"]:
        target = inside[to]
        target.parent.mkdir(parents=True, exist_ok=True)
        if Path(source).is_symlink():
            target.symlink_to(Path(source).readlink())
            continue
        if Path(source).is_dir():
            target.mkdir(exist_ok=True)
        else:
            target.touch()
        mount(source, target, flags=BIND | REC)
        restrict(target, RDONLY | NOSUID | NODEV)
    for path in plan["hidden"]:
        if inside[path].is_dir():
            mount("tmpfs", inside[path], "tmpfs", RDONLY | NOSUID | NODEV, "size=4k")
    for name in ("proc", "dev", "dev/shm", "etc", scratch.lstrip("/")):
        (root / name).mkdir(exist_ok=True)
    mount("proc", root / "proc", "proc", NOSUID | NODEV | NOEXEC)
    for name in DEVICES:
        (root / "dev" / name).touch()
        mount(f"/dev/{name}", root / "dev" / name, flags=BIND)
    (root / "dev/fd").symlink_to("/proc/self/fd")
    for target in (inside[scratch], root / "dev/shm"):
        options = f"size={plan['scratch_bytes']},mode=700,uid={uid},gid={uid}"
        mount("tmpfs", target, "tmpfs", NOSUID | NODEV, options)
    if not (root / "tmp").exists():  # it does if Python or its packages are below /tmp; TMPDIR names the scratch folder
        (root / "tmp").symlink_to(scratch)
    (root / "etc/passwd").write_text(f"student:x:{uid}:{uid}::{scratch}:/bin/sh\n", encoding="ascii")
    os.chdir(root)
    check(libc.pivot_root(b".", b"."), "pivot_root")
    check(libc.umount2(b".", 2), "umount of the old root folder")
    restrict(Path("/"), RDONLY, recursive=False)
    socket.sethostname("sandbox")


def give_up_privileges(plan: dict[str, Any], as_root: bool) -> None:
    """Set the limits, change the user, and rule out that anything is gained back."""
    for name, value in plan["limits"].items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    if as_root:
        os.setgroups([])
        os.setresgid(plan["uid"], plan["uid"], plan["uid"])
        os.setresuid(plan["uid"], plan["uid"], plan["uid"])
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    filter_calls()


def filter_calls() -> None:
    """Deny this process, and those that it starts, new privileges and some system calls. Raises OSError."""
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    program = call_filter()
    code = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):  # struct sock_fprog
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    filter_program = Program(len(program) // 8, ctypes.addressof(code))
    check(libc.prctl(PR_SET_SECCOMP, 2, ctypes.byref(filter_program), 0, 0), "system call filter")


def call_filter() -> bytes:
    """Return the system call filter as a BPF program (struct sock_filter: u16 code, u8 jt, u8 jf, u32 k).

    Raises OSError on an architecture whose numbers are not known.
    """
    if platform.machine() not in ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"system call filter: {platform.machine()} is not one of {list(ARCHITECTURES)}")
    audit, column = ARCHITECTURES[platform.machine()]
    load, equal, greater, any_bit, leave = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, deny, absent = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
    steps = [(load, 0, 0, 4), (equal, 1, 0, audit), (leave, 0, 0, deny)]
    steps += [(load, 0, 0, 0), (greater, 0, 1, 0x40000000), (leave, 0, 0, deny)]  # the x32 interface of x86_64
    for numbers in SYSCALLS.values():
        steps += [(equal, 0, 1, numbers[column]), (leave, 0, 0, deny)]
    # The C library falls back from clone3, whose flags cannot be read here, to clone.
    steps += [(equal, 0, 1, CLONE3[column]), (leave, 0, 0, absent)]
    steps += [(equal, 0, 3, CLONE[column]), (load, 0, 0, 16), (any_bit, 0, 1, NAMESPACES["user"]), (leave, 0, 0, deny)]
    steps += [(load, 0, 0, 0), (equal, 0, 3, SOCKET[column]), (load, 0, 0, 16), (equal, 1, 0, socket.AF_UNIX)]
    steps += [(leave, 0, 0, deny), (leave, 0, 0, allow)]
    return b"".join(
        code.to_bytes(2, sys.byteorder) + bytes((yes, no)) + k.to_bytes(4, sys.byteorder) for code, yes, no, k in steps
    )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
