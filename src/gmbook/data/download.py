"""Where the data sets are, and how they get there: registry, search path, download, safe extraction.

Nothing is downloaded unless `fetch` is called (the command `gmbook data NAME` does); loaders only look.
`data/registry.toml` says for each set what is fetched from where, its SHA-256, licence and citation.
"""

from __future__ import annotations

import errno
import functools
import gzip
import os
import shutil
import stat
import tarfile
import tempfile
import tomllib
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

PACKAGE = Path(__file__).resolve().parent
REPOSITORY = PACKAGE.parents[2]  # src/gmbook/data -> the repository, when gmbook runs from one


class DataMissing(FileNotFoundError):
    """A data set is not on this machine. The message says how to get it."""


class DataCorrupt(ValueError):
    """A file of a data set is truncated, damaged, or not what its name says. The message names it."""


class DownloadFailed(OSError):
    """A download came to nothing; nothing half-written is left behind. The message says why."""


@dataclass(frozen=True)
class Source:
    """One file to download, from any of the set's bases.

    Attributes:
        name: its file name; the address is base + name.
        bytes, sha256: its size and digest, in hexadecimal.
        into: the folder, relative to the data folder, that it lands in or is unpacked in.
        members: what is taken out of the archive; empty for a file that is kept as it is.
    """

    name: str
    bytes: int
    sha256: str
    into: str
    members: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[PurePosixPath, ...]:
        """What it leaves in the data folder."""
        return tuple(PurePosixPath(self.into) / file for file in self.members or (self.name,))


@dataclass(frozen=True)
class Entry:
    """One data set of the registry: title, official home, licence, citation, addresses, sources."""

    name: str
    title: str
    official: str
    licence: str
    citation: str
    embedded: bool = False
    bases: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()

    @property
    def files(self) -> tuple[PurePosixPath, ...]:
        """What a loader needs, relative to the data folder."""
        return tuple(file for source in self.sources for file in source.files)


@functools.cache
def registry() -> dict[str, Entry]:
    """All data sets, by name, as `data/registry.toml` lists them (a wheel has a copy beside this file)."""
    path = REPOSITORY / "data" / "registry.toml"
    path = path if path.is_file() else PACKAGE / "registry.toml"
    entries = {}
    for name, table in tomllib.loads(path.read_text(encoding="utf-8")).items():
        sources = tuple(
            Source(**{**source, "members": tuple(source.get("members", ()))}) for source in table.pop("sources", ())
        )
        entries[name] = Entry(name, bases=tuple(table.pop("bases", ())), sources=sources, **table)
    return entries


def entry(name: str) -> Entry:
    """The registry's entry of a set. Raises ValueError, with the known names, where there is none."""
    if name not in registry():
        raise ValueError(f"there is no data set {name!r}; there are {', '.join(registry())}")
    return registry()[name]


def cache() -> Path:
    """The folder for downloads: `data/cache` of the repository, or ~/.cache/gmbook where there is none."""
    in_repository = (REPOSITORY / "data" / "registry.toml").is_file()
    return REPOSITORY / "data" / "cache" if in_repository else Path.home() / ".cache" / "gmbook"


def homes() -> list[Path]:
    """The folders that are searched, in order: the one that GMBOOK_DATA names, then `cache()`."""
    named = os.environ.get("GMBOOK_DATA")
    return [Path(named).expanduser(), cache()] if named else [cache()]


def locate(name: str) -> Path | None:
    """The first folder that holds all files of a set, or None. Files are not opened."""
    if entry(name).embedded:
        import sklearn.datasets

        return Path(sklearn.datasets.__file__).parent / "data"
    for home in homes():
        if all((home / file).is_file() for file in entry(name).files):
            return home
    return None


def available(name: str) -> bool:
    """Whether a set can be loaded without a download."""
    return locate(name) is not None


def require(name: str) -> Path:
    """The folder that holds a set. Raises DataMissing, with what to do, where there is none."""
    home = locate(name)
    if home is None:
        looked = " and ".join(str(home) for home in homes())
        raise DataMissing(
            f"{entry(name).title} is not on this machine: run `gmbook data {name}`, or set GMBOOK_DATA to a "
            f"folder that holds {entry(name).files[0]} and its companions (looked in {looked})"
        )
    return home


def fetch(name: str, *, progress: bool = True, timeout: float = 30.0) -> Path:
    """Download a set into the folder that GMBOOK_DATA names, else into `cache()`; return that folder.

    The bases are tried in order until one delivers the bytes with the registered SHA-256. All happens in a
    staging folder beside the destination; complete, checked files are then renamed into place. A set that is
    already there is left alone.

    Args:
        progress: draw a progress bar per file.
        timeout: seconds without a byte after which the next base is tried.

    Raises:
        DownloadFailed: no base delivers, or the folder cannot be written.
        DataCorrupt: an archive has an unsafe or a missing member.
    """
    found = locate(name)
    if found is not None:
        return found
    wanted, home = entry(name), homes()[0]
    with _writing(home), _staging(home) as staging:
        for source in wanted.sources:
            landing = staging / "tree" / source.into
            landing.mkdir(parents=True, exist_ok=True)
            downloaded = _download(source, wanted, staging if source.members else landing, progress, timeout)
            if source.members:
                _unpack(downloaded, source.members, landing)
                downloaded.unlink()  # makes room for the next source
        for file in wanted.files:
            (home / file).parent.mkdir(parents=True, exist_ok=True)
            os.replace(staging / "tree" / file, home / file)
    return home


@contextmanager
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


@contextmanager
def _staging(home: Path) -> Iterator[Path]:
    """A temporary folder in `home`, so that renaming out of it is atomic; and no trace of it afterwards."""
    made = [folder for folder in [home, *home.parents] if not folder.exists()]
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home, prefix=".fetch-") as staging:
            yield Path(staging)
    except BaseException:
        for parent in made:  # innermost first; a folder that is in use stays
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        raise


def _download(source: Source, wanted: Entry, folder: Path, progress: bool, timeout: float) -> Path:
    """`source` in `folder`, with the right SHA-256, from the first base that delivers it."""
    import pooch
    import requests

    pooch.get_logger().setLevel("WARNING")  # its progress bar says enough
    failures = []
    for base in wanted.bases:
        downloader = pooch.HTTPDownloader(progressbar=progress, timeout=timeout)
        try:
            path = pooch.retrieve(
                base + source.name, f"sha256:{source.sha256}", source.name, folder, downloader=downloader
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
        f"`gmbook data {wanted.name}`, or set GMBOOK_DATA to a folder that holds {wanted.files[0]}"
    )


def _unpack(archive: Path, members: tuple[str, ...], folder: Path) -> None:
    """Copy exactly `members` out of a .tar.gz or .zip into `folder`.

    Only contents are copied, never owners, modes or links; an archive with any entry that points outside, or
    that is a link or a device, is refused as a whole, since an honest data set has none.

    Raises:
        DataCorrupt: an unsafe entry, a member that is missing, or an archive that cannot be read.
    """
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as opened:
                _copy_members(archive.name, _zip_files(opened), members, folder)
        else:
            with tarfile.open(archive, "r:gz") as opened_tar:
                _copy_members(archive.name, _tar_files(opened_tar), members, folder)
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataCorrupt(f"{archive.name} cannot be unpacked ({error}): fetch it again") from error


def _tar_files(archive: tarfile.TarFile) -> Iterator[tuple[str, bool, IO[bytes] | None]]:
    for item in archive:
        yield item.name, item.isfile() or item.isdir(), archive.extractfile(item) if item.isfile() else None


def _zip_files(archive: zipfile.ZipFile) -> Iterator[tuple[str, bool, IO[bytes] | None]]:
    for item in archive.infolist():
        kind = stat.S_IFMT(item.external_attr >> 16)  # 0 where the archive was not made on Unix
        plain = kind in (0, stat.S_IFREG, stat.S_IFDIR)
        yield item.filename, plain, archive.open(item) if plain and not item.is_dir() else None


def _copy_members(
    archive: str, files: Iterator[tuple[str, bool, IO[bytes] | None]], members: tuple[str, ...], folder: Path
) -> None:
    """Check every (name, is plain, contents) of an archive; copy the contents of those in `members`."""
    left = set(members)
    for name, plain, contents in files:
        path = PurePosixPath(name.replace("\\", "/"))
        if not plain or path.is_absolute() or ".." in path.parts or ":" in name:
            raise DataCorrupt(f"{archive} is not safe to unpack: its entry {name!r} is a link or points outside")
        if contents is not None and str(path) in left:
            left.remove(str(path))
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            with contents, open(folder / path, "wb") as target:
                shutil.copyfileobj(contents, target, 1 << 20)
    if left:
        raise DataCorrupt(f"{archive} lacks {', '.join(sorted(left))}: fetch it again")
