"""The fence around a student's process: the command that starts it inside bubblewrap, and what holds in there.

bubblewrap (`bwrap`, the package "bubblewrap" of every Linux distribution) gives the process a machine of its own: the
system's programs and the Python installation, read-only, a folder in memory, and nothing else. It has no network, no
other process, no socket, no home, no clone and nobody's submission. `unshare`, `setpriv` and `prlimit` of util-linux
do the rest. Where one of them is missing, or may not start, there is no fence, and `check` says why.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
FOLDER = "/tmp"  # within the fence: the working directory, and all that can be written
TASKS = 16  # processes and threads
FOLDER_MB, FILE_MB, FILES = 64, 16, 64  # files open at once; those in memory (memfd) count among them

# The folder is mounted over /sys, which the fence needs for nothing else: bwrap cannot limit the number of files.
# A segment of System V outlives its process and no limit of a process counts it: there are none.
PREPARE = f"""mount -t tmpfs -o size={FOLDER_MB}m,nr_inodes=4096,mode=1777 gmbook /sys || exit 1
for most in shmmni shmall shmmax msgmni; do echo 0 > /proc/sys/kernel/$most; done 2>/dev/null
exec "$@" """


@dataclass(frozen=True)
class Bounds:
    """What one process may use."""

    memory: int = 4 << 30  # bytes of address space
    seconds: int = 600  # of processor time


def fenced(inner: Sequence[str], bounds: Bounds, hidden: Sequence[Path] = ()) -> list[str]:
    """The command that runs another one behind the fence.

    Args:
        hidden: files and folders that are out of sight even where they lie within what is shown.
    """
    root = os.geteuid() == 0
    alone = ["unshare", "--mount", "--ipc", *([] if root else ["--user", "--map-root-user"]), "--"]
    unable = ["--cap-drop", "ALL", *(["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"] if root else [])]
    kinds = ["--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    bwrap = ["bwrap", *kinds, *([] if root else ["--unshare-user"]), "--die-with-parent", "--new-session", *unable]
    # a number that is nobody's: the limit on tasks counts by user, and does not hold for root
    number = str(2**30 + secrets.randbelow(2**29))
    nobody = ["setpriv", "--reuid", number, "--regid", number, "--clear-groups"] if root else []
    return [*alone, "/bin/sh", "-c", PREPARE, "sh", *bwrap, *view(hidden), "--", *nobody, *limited(inner, bounds)]


def limited(inner: Sequence[str], bounds: Bounds) -> list[str]:
    """The command with the limits of POSIX alone, where the system has `prlimit`."""
    limits = {"as": bounds.memory, "cpu": bounds.seconds, "fsize": FILE_MB << 20, "nofile": FILES, "nproc": TASKS}
    return ["prlimit", *(f"--{name}={most}" for name, most in limits.items()), "--core=0", "--", *inner]


def view(hidden: Sequence[Path]) -> Iterator[str]:
    """bwrap's arguments for the files: what is shown, read-only; all else does not exist."""
    for name in ("/bin", "/lib", "/lib32", "/lib64", "/sbin"):
        path = Path(name)
        if path.is_symlink():
            yield from ("--symlink", os.readlink(path), name)
        elif path.is_dir():
            yield from ("--ro-bind", name, name)
    yield from ("--bind", "/sys", FOLDER)
    parents = {above for path in shown() for above in path.parents}
    for path in sorted(parents - {Path("/"), Path(FOLDER)}):  # bwrap makes those of a bind unreadable to other users
        yield from ("--dir", str(path))
    for path in shown():
        yield from ("--ro-bind-try", str(path), str(path))
    for path in hidden:
        if any(path.is_relative_to(seen) for seen in shown()) and path.exists():
            yield from ("--tmpfs", str(path)) if path.is_dir() else ("--ro-bind", "/dev/null", str(path))
    yield from ("--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev")
    yield from ("--bind", "/sys", "/dev/shm", "--remount-ro", "/", "--chdir", FOLDER)


def shown() -> list[Path]:
    """The system's programs and libraries, Python's installation, and this package."""
    prefixes = [Path(prefix) for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix)]
    system = [Path("/usr"), Path("/etc/ld.so.cache"), Path("/etc/alternatives"), Path("/nix/store")]
    # as they are named, too: a virtual environment is found by its name
    return sorted({*system, *prefixes, *(prefix.resolve() for prefix in prefixes), PACKAGE})


def check() -> list[str]:
    """What the fence lacks on this system, where it stands; usually nothing.

    Raises:
        RuntimeError: there is no fence; the message says what to do.
    """
    advice = "; see the lecturer's guide, or give --unfenced for submissions that you trust"
    for program in ("bwrap", "unshare", "setpriv", "prlimit"):
        if shutil.which(program) is None:
            raise RuntimeError(
                f"{program} is missing, so nothing would fence the submissions in: on Linux install the packages "
                f"bubblewrap and util-linux; elsewhere grade in a Linux container or virtual machine{advice}"
            )
    look = "import threading; threading.Thread(target=list).start(); print(open('/proc/sys/kernel/shmmni').read())"
    command = fenced([sys.executable, "-I", "-c", look], Bounds())
    run = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60)
    if run.returncode != 0:
        last = " ".join(run.stderr.strip().splitlines()[-1:])
        raise RuntimeError(f"bwrap cannot start here ({last}), so nothing would fence the submissions in{advice}")
    return [] if run.stdout.split() == ["0"] else ["shared memory of System V is not limited (before Linux 5.19)"]


def resident(pid: int) -> int:
    """Bytes that a process and all below it hold in memory, so far as they can be looked at."""
    import psutil  # here, since it imports what Windows does not have

    held = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                held += one.memory_info().rss
    return held
