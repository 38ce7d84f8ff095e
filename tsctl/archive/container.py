"""Writes and reads the zip file that an archive is: the same bytes from the same entries, nothing outside its folder.

Entries are sorted by name, stored and not deflated, with one time, one mode and no other attribute. Reading refuses
entries that would leave the target folder or fill the disk.
"""

from __future__ import annotations

import io
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from hashlib import file_digest
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from handlers.contract import SAMPLE_MEDIA_TYPES
from tsctl.errors import ArchiveError

#: An entry's content: bytes, or the file that holds them.
Content = bytes | Path

MANIFEST = "MAR-INF/MANIFEST.json"
DIGESTS = "MAR-INF/DIGESTS.json"
#: Raised by reading a damaged zip file; one flipped byte can cause any of them.
UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError)

_TIME = (1980, 1, 1, 0, 0, 0)  # the oldest that a zip file can state
_MODE = stat.S_IFREG | 0o644
_BLOCK = 1 << 20
#: Bounds on what an archive may unpack to; weights are stored, so a large ratio means a bomb.
MAX_UNPACKED_BYTES = 64 << 30
MAX_RATIO = 200
MAX_ENTRIES = 100_000


def write_entries(entries: Mapping[str, Content], file: BinaryIO) -> None:
    """Write the entries into the file, as a zip file."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(entries):
            info = zipfile.ZipInfo(name, _TIME)
            info.create_system = 3  # Unix, whatever this machine is
            info.external_attr = _MODE << 16
            with _opened(entries[name]) as source:
                info.file_size = source.seek(0, io.SEEK_END)  # tells zipfile beforehand whether it needs 64-bit fields
                source.seek(0)
                with archive.open(info, "w") as entry:
                    shutil.copyfileobj(source, entry, _BLOCK)


def digest_of(content: Content) -> str:
    """SHA-256 of a file or an entry's content, in hex."""
    with _opened(content) as source:
        return file_digest(source, "sha256").hexdigest()


def place(content: Content, path: Path) -> None:
    """Write an entry's content to a file, and make the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _opened(content) as source, path.open("wb") as file:
        shutil.copyfileobj(source, file, _BLOCK)


def check_entries(archive: zipfile.ZipFile) -> list[str]:
    """The reasons why the archive is unsafe to unpack, a sentence each; empty where it is safe."""
    unsafe = []
    infos = archive.infolist()
    if len(infos) > MAX_ENTRIES:
        unsafe.append(f"it has {len(infos)} entries; at most {MAX_ENTRIES} are read")
    seen: dict[str, str] = {}
    files = {info.filename.casefold() for info in infos if not info.is_dir()}
    for info in infos:
        name = info.filename
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\\" in name or ":" in name.split("/")[0] or "\0" in name:
            unsafe.append(f"entry {name!r} leads out of the archive")
        if stat.S_ISLNK(info.external_attr >> 16):
            unsafe.append(f"entry {name!r} is a symbolic link")
        if name.casefold() in seen:
            unsafe.append(f"entry {name!r} appears twice (as {seen[name.casefold()]!r})")
        seen[name.casefold()] = name
        folder = next((str(parent) for parent in pure.parents if str(parent).casefold() in files), None)
        if folder is not None:
            unsafe.append(f"entry {name!r} lies in {folder!r}, which is a file")
        if info.file_size > 1 << 20 and info.file_size > MAX_RATIO * max(1, info.compress_size):
            unsafe.append(f"entry {name!r} grows {info.file_size // max(1, info.compress_size)}-fold when unpacked")
    total = sum(info.file_size for info in infos)
    if total > MAX_UNPACKED_BYTES:
        unsafe.append(f"it unpacks to {total} bytes; at most {MAX_UNPACKED_BYTES} are written")
    return unsafe


def check_names(names: Iterable[str]) -> list[str]:
    """The reasons why an archive of entries with these names would be unsafe, as `check_entries` gives them."""
    with zipfile.ZipFile(io.BytesIO(), "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name, _TIME), b"")
        return check_entries(archive)


def open_archive(path: Path) -> zipfile.ZipFile:
    """The archive, opened for reading.

    Raises:
        ArchiveError: there is no such file, or it is no zip file.
    """
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError:
        raise ArchiveError(f"no such file: {path}") from None
    except UNREADABLE as error:
        raise ArchiveError(f"{path} is no archive: it is not a zip file ({error})") from error


def read_samples(path: Path) -> list[tuple[str, bytes, str]]:
    """Name, body and media type of each sample in the archive; empty for a stock archive."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.startswith("samples/") and not name.endswith("/"))
        return [
            (name, archive.read(name), SAMPLE_MEDIA_TYPES.get(Path(name).suffix.lower(), "application/octet-stream"))
            for name in names
        ]


def unpack(path: Path, folder: Path) -> None:
    """Unpack the archive into a folder.

    Raises:
        ArchiveError: an entry is unsafe, and nothing is written then; or an entry is damaged.
    """
    with open_archive(path) as archive:
        unsafe = check_entries(archive)
        if unsafe:
            raise ArchiveError(f"{path.name} is not unpacked: {unsafe[0]}")
        for info in archive.infolist():
            try:
                archive.extract(info, folder)
            except UNREADABLE as error:
                raise ArchiveError(f"{path.name}: entry {info.filename} cannot be unpacked: {error}") from error


def _opened(content: Content) -> io.BytesIO | io.BufferedReader:
    return io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")
