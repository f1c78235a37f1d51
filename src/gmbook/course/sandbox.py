"""What a student's process may do: limits everywhere, and on Linux a view of the machine in which nothing can be hurt.

`enter` is called in a fresh process, before anything of the student's is run and before torch is imported (a process
with threads cannot change its view). It sets up what this system allows and says what it got:

    "limits"      memory, processor time, size of files, open files, no core dumps (POSIX; macOS ignores the memory's)
    "processes"   its own process numbers: it sees and can signal no other, and all its children end with it (Linux)
    "network"     none (Linux)
    "files"       read-only, all but a small folder of its own; the grader's files hidden (Linux 5.12 or newer)
    "no forks"    threads, but no new processes (Linux on x86-64 and ARM64)
    "other user"  it runs as nobody, where the grader is root and nobody can read the library

The Linux part needs unprivileged user namespaces, which some containers and some distributions forbid. Without them
the limits remain, and the caller reports what is missing.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

NOBODY = 65534
NEW_USER, NEW_PID, NEW_NET, NEW_IPC, NEW_MOUNTS = 0x10000000, 0x20000000, 0x40000000, 0x08000000, 0x00020000
NO_SUID, NO_DEV, BIND = 2, 4, 4096  # flags of mount(2)
ALL = ("limits", "processes", "network", "files", "no forks")  # of a Linux that allows it


@dataclass(frozen=True)
class Bounds:
    """What one process may use."""

    memory: int = 4 << 30  # bytes of address space
    seconds: int = 600  # of processor time
    file: int = 64 << 20  # bytes of a file, and of its folder
    files: int = 256  # open at once


def enter(folder: Path, hidden: Sequence[Path], bounds: Bounds, report: Callable[[int, list[str]], None]) -> None:
    """Fence this program in. Returns in a new process, which is fenced; the old one waits for it and ends.

    Args:
        folder: its own, the working directory and the only place to write.
        hidden: files and folders that it must not see.
        report: told, in the waiting process, the number of the new one and the protections that hold.
    """
    got = ["limits"]
    if os.geteuid() == 0 and nobody_can_read(Path(sys.executable)) and nobody_can_read(Path(__file__)):
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        got.append("other user")
    if sys.platform == "linux":
        got += namespaces(folder, hidden)
    own, other = os.pipe()  # through which the new process says what else it got
    child = os.fork()
    if child:
        os.close(other)
        if sys.platform == "linux":
            libc().prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: not to outlive the judge
        with open(own) as told:
            got += [name for name in told.read().split(",") if name]
        report(child, got)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _, status = os.waitpid(child, 0)
        attempt(lambda: os.killpg(child, signal.SIGKILL))  # what it may have started
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    os.close(own)
    os.setsid()
    os.chdir(folder)
    limit(bounds)
    more = []
    if sys.platform == "linux":
        libc().prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: not to outlive the one that waits
        if "files" in got:
            attempt(lambda: mount(b"proc", Path("/proc"), b"proc", NO_SUID | NO_DEV))
            attempt(lambda: unshare(NEW_USER))  # without rights over the mounts made above: they cannot be undone
        if attempt(no_new_processes):
            more.append("no forks")
    os.write(other, ",".join(more).encode())
    os.close(other)


def nobody_can_read(path: Path) -> bool:
    """Whether another user could get at this file: every folder above the real one may be entered by all."""
    real = path.resolve()
    return real.stat().st_mode & 0o4 != 0 and all(above.stat().st_mode & 0o1 for above in real.parents)


def limit(bounds: Bounds) -> None:
    """The limits that POSIX knows."""
    wanted = [
        (resource.RLIMIT_AS, bounds.memory),
        (resource.RLIMIT_CPU, bounds.seconds),
        (resource.RLIMIT_FSIZE, bounds.file),
        (resource.RLIMIT_NOFILE, bounds.files),
        (resource.RLIMIT_CORE, 0),
    ]
    for kind, most in wanted:
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        attempt(partial(resource.setrlimit, kind, (most, most)))


def attempt(act: Callable[[], object]) -> bool:
    """Whether the system allowed it."""
    try:
        act()
    except (OSError, ValueError, AttributeError):
        return False
    return True


# ------------------------------------------------------------------------------------------------------- Linux


def namespaces(folder: Path, hidden: Sequence[Path]) -> list[str]:
    """A view of its own on processes, network and files; the protections that hold."""
    if os.geteuid() != os.getuid() or not attempt(lambda: libc().prctl(4, 1, 0, 0, 0)):  # PR_SET_DUMPABLE, for /proc
        return []
    if not attempt(lambda: unshare(NEW_USER | NEW_PID | NEW_NET | NEW_IPC | NEW_MOUNTS)):
        return []
    return ["processes", "network", *(["files"] if attempt(lambda: files(folder, hidden)) else [])]


def unshare(flags: int) -> None:
    """Leave the shared view; with a new user namespace, stay the same user in it."""
    user, group = os.geteuid(), os.getegid()
    checked(libc().unshare(flags))
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        Path("/proc/self", name).write_text(text)


def files(folder: Path, hidden: Sequence[Path]) -> None:
    """All read-only, hidden things empty, and the folder a small file system in memory."""
    blank = folder / "nothing"
    blank.touch()
    attributes = struct.pack("4Q", 1, 0, 0, 0)  # MOUNT_ATTR_RDONLY, on every mount there is
    for path in hidden:
        if path.is_dir():
            mount(b"none", path, b"tmpfs", NO_SUID | NO_DEV, b"size=4k,mode=0555")
        elif path.exists():
            mount(str(blank).encode(), path, b"none", BIND)
    checked(libc().syscall(442, -100, b"/", 0x8000, attributes, len(attributes)))  # mount_setattr, recursive
    mount(b"none", folder, b"tmpfs", NO_SUID | NO_DEV, b"size=64m,nr_inodes=4096,mode=0700")


def mount(source: bytes, target: Path, kind: bytes, flags: int, data: bytes | None = None) -> None:
    """mount(2)."""
    checked(libc().mount(source, str(target).encode(), kind, ctypes.c_ulong(flags), data))


class _Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("program", ctypes.c_char_p)]


def no_new_processes() -> None:
    """A seccomp filter: of the calls that make a process only those are let through that make a thread."""
    numbers = {"x86_64": (0xC000003E, 56, 57, 58), "aarch64": (0xC00000B7, 220, 220, 220)}  # arch, clone, fork, vfork
    if platform.machine() not in numbers:
        raise OSError("no filter for this machine")
    arch, clone, fork, vfork = numbers[platform.machine()]
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    refuse, unknown, allow = 0x00050001, 0x00050026, 0x7FFF0000  # errno EPERM; errno ENOSYS; let through
    program = [
        (load, 0, 0, 4),  # the architecture
        (equal, 0, 8, arch),
        (load, 0, 0, 0),  # the number of the call
        (at_least, 6, 0, 0x40000000),  # calls of the x32 kind
        (equal, 6, 0, 435),  # clone3 hides its flags: the C library falls back to clone
        (equal, 2, 0, clone),
        (equal, 3, 0, fork),
        (equal, 2, 4, vfork),
        (load, 0, 0, 16),  # clone's flags
        (any_bit, 2, 0, 0x00010000),  # CLONE_THREAD
        (give, 0, 0, refuse),
        (give, 0, 0, unknown),
        (give, 0, 0, allow),
    ]
    code = b"".join(struct.pack("HBBI", *line) for line in program)
    checked(libc().prctl(38, 1, 0, 0, 0))  # PR_SET_NO_NEW_PRIVS
    checked(libc().prctl(22, 2, ctypes.byref(_Filter(len(program), code)), 0, 0))  # PR_SET_SECCOMP


def checked(result: int) -> None:
    """Raise what a C call left in errno."""
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def libc() -> ctypes.CDLL:
    """The C library."""
    return ctypes.CDLL(None, use_errno=True)
