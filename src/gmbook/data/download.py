"""Where the data sets are, and how they get there: registry, search path, digests, download.

Nothing is downloaded unless `fetch` is called (the command `gmbook data NAME` does); loaders only look, and compare the
digest of what they read. `registry.toml` says for each set what is fetched from where, its digests, licence, citation.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import functools
import importlib.util
import io
import json
import os
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock, Timeout

from gmbook.data.archives import the_pooch, unpack
from gmbook.data.errors import DataCorrupt, DataMissing, DownloadFailed

PACKAGE = Path(__file__).resolve().parent
REPOSITORY = PACKAGE.parents[2]  # src/gmbook/data -> the repository, when gmbook runs from one


@dataclass(frozen=True)
class Source:
    """One file to download, from any of the set's bases.

    Attributes:
        name: its file name; the address is base + name.
        bytes, sha256: its size and digest, in hexadecimal.
        into: the folder, relative to the data folder, that it lands in or is unpacked in.
        members: what is taken out of the archive, each with the digests that are accepted, as "sha256:…" or "md5:…";
            empty for a file that is kept as it is.
    """

    name: str
    bytes: int
    sha256: str
    into: str
    members: dict[str, list[str]]

    @property
    def files(self) -> dict[PurePosixPath, list[str]]:
        """What it leaves in the data folder, with the accepted digests."""
        left = self.members or {self.name: [f"sha256:{self.sha256}"]}
        return {PurePosixPath(self.into) / file: digests for file, digests in left.items()}


@dataclass(frozen=True)
class Entry:
    """One data set of the registry: title, official home, licence, citation, addresses, sources.

    Attributes:
        embedded: the module in whose folder the set lies; empty for a set that is downloaded.
        whole: bytes of a text of which a beginning is a set too; 0 where a file of another size is wrong.
    """

    name: str
    title: str
    official: str
    licence: str
    citation: str
    embedded: str = ""
    whole: int = 0
    bases: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()

    @property
    def files(self) -> dict[PurePosixPath, list[str]]:
        """What a loader needs, relative to the data folder, with the accepted digests."""
        return {file: digests for source in self.sources for file, digests in source.files.items()}


@functools.cache
def registry() -> dict[str, Entry]:
    """All data sets, by name, as `registry.toml` beside this file lists them."""
    entries = {}
    for name, table in tomllib.loads((PACKAGE / "registry.toml").read_text(encoding="utf-8")).items():
        sources = tuple(Source(**{"members": {}, **source}) for source in table.pop("sources", ()))
        entries[name] = Entry(name, bases=tuple(table.pop("bases", ())), sources=sources, **table)
    return entries


def entry(name: str) -> Entry:
    """The registry's entry of a set. Raises ValueError, with the known names, where there is none."""
    if name not in registry():
        near = difflib.get_close_matches(name, registry(), 1, 0.4)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"there is no data set {name!r}: {hint}there are {', '.join(registry())}")
    return registry()[name]


def clone() -> Path | None:
    """The repository that gmbook runs from; None where it was installed without one."""
    return REPOSITORY if (REPOSITORY / "data" / "pretrained").is_dir() else None


def cache() -> Path:
    """The folder for downloads: `data/cache` of the repository, or ~/.cache/gmbook where there is none."""
    repository = clone()
    return repository / "data" / "cache" if repository is not None else Path.home() / ".cache" / "gmbook"


def homes() -> list[Path]:
    """The folders that are searched, in order: the one that GMBOOK_DATA names, then `cache()`."""
    named = os.environ.get("GMBOOK_DATA")
    return [Path(named).expanduser(), cache()] if named else [cache()]


def locate(name: str) -> Path | None:
    """The first folder that holds all files of a set, or None. Files are not opened."""
    wanted = entry(name)
    if wanted.embedded:
        found = importlib.util.find_spec(wanted.embedded)
        return Path(found.origin).parent if found is not None and found.origin else None
    return next((home for home in homes() if not lacking(name, home)), None)


def lacking(name: str, home: Path) -> list[PurePosixPath]:
    """The files of a set that a folder does not hold."""
    return [file for file in entry(name).files if not (home / file).is_file()]


def available(name: str) -> bool:
    """Whether all files of a set are here, so that it can be loaded without a download. They are not opened."""
    return locate(name) is not None


def require(name: str) -> Path:
    """The folder that holds a set. Raises DataMissing, with what to do, where there is none."""
    home = locate(name)
    if home is None:
        wanted = entry(name)
        looked = " and ".join(str(home) for home in homes())
        part = next((home for home in homes() if len(lacking(name, home)) < len(wanted.files)), None)
        gone = f" ({_missing(name, part)})" if part is not None else ""
        raise DataMissing(
            f"{wanted.title} is not on this machine{gone}: run `gmbook data {name}`, or set GMBOOK_DATA to a "
            f"folder that holds {next(iter(wanted.files))} and its companions (looked in {looked})"
        )
    return home


def _missing(name: str, home: Path) -> str:
    gone = lacking(name, home)
    return f"{', '.join(map(str, gone))} {'is' if len(gone) == 1 else 'are'} missing in {home}"


def sound(name: str, file: str) -> Path:
    """The path of one file of a set, whose digest is a registered one, or which may be a beginning of a text.

    Raises:
        DataMissing: the set is not here, or not all of it.
        DataCorrupt: the file is another one.
    """
    wanted, path = entry(name), require(name) / file
    digests = wanted.files[PurePosixPath(file)]
    if path.stat().st_size < wanted.whole or any(digest == _digest(path, digest.split(":")[0]) for digest in digests):
        return path
    raise DataCorrupt(
        f"{path} is damaged or belongs to another set (its digest is not one of {wanted.title}'s): "
        f"delete it and run `gmbook data {name}`"
    )


def look(name: str) -> tuple[bool, str]:
    """Whether a set can be loaded, and where it is or what is wrong: the digests of all its files are compared."""
    try:
        home = require(name)
        for file in entry(name).files:
            sound(name, str(file))
        return True, f"found in {home}"
    except DataMissing:
        part = next((home for home in homes() if len(lacking(name, home)) < len(entry(name).files)), None)
        return (
            False,
            f"missing: `gmbook data {name}` downloads it" if part is None else f"incomplete: {_missing(name, part)}",
        )
    except DataCorrupt as error:
        return False, str(error)


def _digest(path: Path, algorithm: str) -> str:
    """`algorithm:hexadecimal` of a file; computed once, and remembered in the cache while size and time stay."""
    pooch = the_pooch()
    memory, state = cache() / "digests.json", path.stat()
    key, stamp = f"{algorithm} {path.absolute()}", [state.st_size, state.st_mtime_ns]
    known: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError, TypeError):  # none yet, or not ours: it is made anew
        known = dict(json.loads(memory.read_text(encoding="utf-8")))
    if known.get(key, [])[:2] == stamp:
        return str(known[key][2])
    known[key] = [*stamp, f"{algorithm}:{pooch.file_hash(str(path), alg=algorithm)}"]
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
        memory.parent.mkdir(parents=True, exist_ok=True)
        draft = memory.with_name(f".digests-{os.getpid()}.json")
        draft.write_text(json.dumps(known, indent=1), encoding="utf-8")
        os.replace(draft, memory)
    return str(known[key][2])


# ---------------------------------------------------------------------------------------------- downloads


def fetch(name: str, *, progress: bool = True, timeout: float = 30.0) -> Path:
    """Download what is missing of a set into the folder that GMBOOK_DATA names, else into `cache()`; return the folder.

    The bases are tried in order until one delivers the bytes with the registered SHA-256. All happens in a
    staging folder beside the destination; complete, checked files are then renamed into place. What a killed download
    left there is swept away first. A file that is already there is left alone.

    Args:
        progress: draw a progress bar per file.
        timeout: seconds without a byte after which the next base is tried.

    Raises:
        DownloadFailed: no base delivers, or the folder cannot be written.
        DataCorrupt: an archive has an unsafe or a missing member, or a file that is there is not the set's.
    """
    wanted, home = entry(name), homes()[0]
    with _writing(home):
        _sweep(home)
        if locate(name) is None:
            with _staging(home) as staging:
                for source in wanted.sources:
                    if any(not (home / file).is_file() for file in source.files):
                        _place(source, wanted, staging, home, progress, timeout)
    found = require(name)
    for file in wanted.files:
        sound(name, str(file))
    return found


def _place(source: Source, wanted: Entry, staging: Path, home: Path, progress: bool, timeout: float) -> None:
    """One source, downloaded and unpacked in `staging`; what is missing of it is moved to `home`."""
    landing = staging / "tree" / source.into
    landing.mkdir(parents=True, exist_ok=True)
    downloaded = _download(source, wanted, staging if source.members else landing, progress, timeout)
    if source.members:
        unpack(downloaded, source.members, landing)
        downloaded.unlink()  # makes room for the next source
    for file in source.files:
        if not (home / file).is_file():
            (home / file).parent.mkdir(parents=True, exist_ok=True)
            os.replace(staging / "tree" / file, home / file)


@contextlib.contextmanager
def _writing(home: Path) -> Iterator[None]:
    """Turn what the file system refuses below `home` into one clear DownloadFailed."""
    reasons = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}
    try:
        yield
    except (DownloadFailed, DataMissing):
        raise
    except OSError as error:
        reason = reasons.get(error.errno or 0, error.strerror or str(error))
        raise DownloadFailed(
            f"cannot write in {home} ({reason}): set GMBOOK_DATA to a folder with room that you may write in"
        ) from error


@contextlib.contextmanager
def _staging(home: Path) -> Iterator[Path]:
    """A temporary folder in `home`, so that renaming out of it is atomic; and no trace of it afterwards.

    It holds a lock while it is in use, which the system gives back when the process is killed.
    """
    made = [folder for folder in [home, *home.parents] if not folder.exists()]
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home, prefix=".fetch-") as staging:
            with FileLock(Path(staging) / ".lock"):
                yield Path(staging)
    except BaseException:
        for parent in made:  # innermost first; a folder that is in use stays
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        raise


def _sweep(home: Path) -> None:
    """Delete the staging folders of downloads that were killed: those whose lock nobody holds."""
    for left in home.glob(".fetch-*"):
        with contextlib.suppress(Timeout, OSError):
            with FileLock(left / ".lock", timeout=0):
                pass
            shutil.rmtree(left)


class _Bounded(io.FileIO):
    """A new file that takes so many bytes, and no more."""

    def __init__(self, file: str, limit: int):
        super().__init__(file, "wb")
        self.left = limit

    def write(self, chunk: Any) -> int:
        """Raises ValueError, as pooch does for a wrong digest, at the first byte too many."""
        self.left -= len(chunk)
        if self.left < 0:
            raise ValueError("more bytes than are due")
        return super().write(chunk)


def _download(source: Source, wanted: Entry, folder: Path, progress: bool, timeout: float) -> Path:
    """`source` in `folder`, with the right SHA-256, from the first base that delivers it."""
    import requests

    pooch = the_pooch()

    def bounded(url: str, file: str, pup: Any) -> None:
        with _Bounded(file, source.bytes) as target:
            pooch.HTTPDownloader(progressbar=progress, timeout=timeout)(url, target, pup)

    pooch.get_logger().setLevel("WARNING")  # its progress bar says enough
    failures = []
    for base in wanted.bases:
        try:
            path = pooch.retrieve(
                base + source.name, f"sha256:{source.sha256}", source.name, folder, downloader=bounded
            )
            return Path(path)
        except requests.HTTPError as error:
            failures.append(f"{base} refuses: {str(error).split(' for url')[0]}")
        except requests.Timeout:
            failures.append(f"{base} does not answer")
        except requests.RequestException:
            failures.append(f"{base} cannot be reached")
        except ValueError:  # pooch's word for a digest that differs
            failures.append(f"{base} delivers other bytes than the registered SHA-256")
    raise DownloadFailed(
        f"{wanted.title} could not be downloaded ({'; '.join(failures)}): check the network and repeat "
        f"`gmbook data {wanted.name}`, or set GMBOOK_DATA to a folder that holds {next(iter(wanted.files))}"
    )
