"""Archives are unpacked only where nothing of them points outside, and checked member by member."""

from __future__ import annotations

import sys
import tarfile
import warnings
import zipfile
import zlib
from pathlib import Path, PureWindowsPath
from types import ModuleType
from typing import Any

from gmbook.data.errors import DataCorrupt

# Python 3.11.0 to 3.11.3 have no filter yet; the names are looked at everywhere, and the archive's SHA-256 was.
_FILTER: dict[str, Any] = {"filter": "data"} if sys.version_info >= (3, 11, 4) else {}


def the_pooch() -> ModuleType:
    """pooch, imported when it is needed, and without a word.

    In a notebook its import would warn where ipywidgets, which draws progress bars, is not installed.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")
        import pooch
    return pooch


def unpack(archive: Path, members: dict[str, list[str]], folder: Path) -> None:
    """Unpack a .tar.gz or .zip into the empty `folder`; an archive with any entry that points outside is refused.

    Raises:
        DataCorrupt: an unsafe entry, a member that is missing or another, or an archive that cannot be read.
    """
    pooch = the_pooch()
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as opened:
                _refuse_outside(archive.name, opened.namelist())
                opened.extractall(folder)
        else:
            with tarfile.open(archive, "r:gz") as opened_tar:
                _refuse_outside(archive.name, opened_tar.getnames())
                opened_tar.extractall(folder, **_FILTER)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's; gzip's own errors have no number
            raise
        if isinstance(error, getattr(tarfile, "FilterError", ())):
            raise DataCorrupt(f"{archive.name} is not safe to unpack: {error}") from error
        raise DataCorrupt(f"{archive.name} cannot be unpacked ({error}): fetch it again") from error
    lost = sorted(member for member in members if not (folder / member).is_file())
    if lost:
        raise DataCorrupt(f"{archive.name} lacks {', '.join(lost)}: fetch it again")
    for member, digests in members.items():
        kinds = {digest.split(":")[0] for digest in digests}
        if not {f"{kind}:{pooch.file_hash(str(folder / member), alg=kind)}" for kind in kinds} & set(digests):
            raise DataCorrupt(f"{archive.name} holds another {member} than the registered one: fetch it again")


def _refuse_outside(archive: str, names: list[str]) -> None:
    """Refuse names that are absolute, have a drive, or climb."""
    for name in names:
        path = PureWindowsPath(name)  # reads both kinds of slash, and drives
        if path.anchor or ".." in path.parts:
            raise DataCorrupt(f"{archive} is not safe to unpack: its entry {name!r} points outside")
