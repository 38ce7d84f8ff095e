"""Writes and reads the zip file that an archive is: the same bytes from the same entries, nothing outside its folder.

Entries are sorted by name, stored and not deflated, with one time, one mode and no other attribute. An archive is read
only if it is canonical (see canonical.py), and no entry would leave the target folder or fill the disk. Every read is
bounded.
"""

from __future__ import annotations

import io
import shutil
import stat
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from hashlib import file_digest
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from tsctl.archive.canonical import NotCanonical, require_canonical
from tsctl.errors import ArchiveError

#: An entry's content: bytes, or the file that holds them.
Content = bytes | Path

MANIFEST = "MAR-INF/MANIFEST.json"
DIGESTS = "MAR-INF/DIGESTS.json"
CONFIG = "model-config.yaml"
GOLDEN = "golden.json"
REFERENCE = "reference.json"
#: Raised by reading a damaged zip file; one flipped byte can cause any of them.
UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError)

_TIME = (1980, 1, 1, 0, 0, 0)  # the oldest that a zip file can state
_MODE = stat.S_IFREG | 0o644
_BLOCK = 1 << 20
#: Bounds on what an archive may unpack to; weights are stored, so a large ratio means a bomb.
MAX_UNPACKED_BYTES = 64 << 30
MAX_RATIO, SMALL_BYTES = 200, 16 << 20
MAX_NAME_BYTES, MAX_FOLDERS = 1000, 30
#: Bounds on what is read into memory.
MAX_DOCUMENT_BYTES = 16 << 20
#: SnakeYAML's limit, within which TorchServe reads the file; past it the whole file is ignored.
MAX_CONFIG_BYTES = 3 << 20
MAX_SAMPLES_BYTES = 128 << 20
_SHOWN = 5


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


def open_archive(path: Path) -> zipfile.ZipFile:
    """The archive, opened for reading, and safe to unpack.

    Raises:
        ArchiveError: there is no such file; it is no canonical zip file; or an entry is unsafe.
    """
    if not path.is_file():
        raise ArchiveError(f"{path} is no archive: it is not a file" if path.exists() else f"no such file: {path}")
    try:
        with path.open("rb") as file:
            require_canonical(file)
        archive = zipfile.ZipFile(path)
    except NotCanonical as error:
        reason = f"it is not a zip file that all programs read alike ({error})"
        raise ArchiveError(
            f"{path} is no archive: {reason}", "Make it again with tsctl or torch-model-archiver."
        ) from None
    except UNREADABLE as error:
        raise ArchiveError(f"{path} is no archive: it cannot be read ({error})") from None
    if unsafe := check_entries(archive):
        archive.close()
        raise ArchiveError(f"{path} is not read: {'; '.join(unsafe)}")
    return archive


def check_entries(archive: zipfile.ZipFile) -> list[str]:
    """The reasons why the archive is unsafe to unpack, a sentence each, the first few; empty where it is safe."""
    unsafe: list[str] = []
    infos = archive.infolist()
    files = {_folded(info.filename) for info in infos if not info.is_dir()}
    seen: dict[str, str] = {}
    for info in infos:
        unsafe += (f"entry {info.filename!r} {why}" for why in _unsafe(info, files, seen))
        seen[_folded(info.filename)] = info.filename
        if len(unsafe) >= _SHOWN:
            return unsafe[:_SHOWN]
    total = sum(info.file_size for info in infos)
    if total > MAX_UNPACKED_BYTES:
        unsafe.append(f"it unpacks to {total} bytes; at most {MAX_UNPACKED_BYTES} are written")
    elif total > max(SMALL_BYTES, MAX_RATIO * (packed := sum(info.compress_size for info in infos))):
        unsafe.append(f"it grows {total // max(1, packed)}-fold when unpacked; at most {MAX_RATIO}-fold is allowed")
    return unsafe


def check_names(names: Iterable[str]) -> list[str]:
    """The reasons why an archive of entries with these names would be unsafe, as `check_entries` gives them."""
    with zipfile.ZipFile(io.BytesIO(), "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name, _TIME), b"")
        return check_entries(archive)


def _unsafe(info: zipfile.ZipInfo, files: set[str], seen: Mapping[str, str]) -> Iterator[str]:
    name, pure = info.filename, PurePosixPath(info.filename)
    folders = name.rstrip("/").split("/")[:-1]
    if len(name.encode()) > MAX_NAME_BYTES or len(folders) > MAX_FOLDERS:
        yield "has too long a name"
        return
    if pure.is_absolute() or ".." in pure.parts or "\\" in name or ":" in name.split("/")[0]:
        yield "leads out of the archive"
    elif name.removesuffix("/") != str(pure) or not name.isprintable():
        yield "has a name that is not plain"
    if stat.S_ISLNK(info.external_attr >> 16):
        yield "is a symbolic link"
    if info.is_dir() and info.file_size:
        yield "is a folder with content"
    if _folded(name) in seen:
        yield f"appears twice (as {seen[_folded(name)]!r})"
    for end in range(1, len(folders) + 1):
        if _folded("/".join(folders[:end])) in files:
            yield f"lies in {'/'.join(folders[:end])!r}, which is a file"


def _folded(name: str) -> str:
    """Equal for names that are one on some disks."""
    return unicodedata.normalize("NFC", name.removesuffix("/")).casefold()


def read_entry(archive: zipfile.ZipFile, name: str, most: int = MAX_DOCUMENT_BYTES) -> bytes:
    """The content of an entry.

    Raises:
        ArchiveError: it is not there, is damaged, or has more than `most` bytes.
    """
    try:
        size = archive.getinfo(name).file_size
        if size > most:
            raise ArchiveError(f"{archive.filename}: {name} has {size} bytes; at most {most} are read")
        return archive.read(name)
    except KeyError:
        raise ArchiveError(f"{archive.filename} is no archive: it has no {name}") from None
    except UNREADABLE as error:
        raise ArchiveError(f"{archive.filename}: {name} cannot be read: {error}") from None


def unpack(path: Path, folder: Path) -> None:
    """Unpack the archive into a folder.

    Raises:
        ArchiveError: it is unsafe, or has no room, and nothing is written then; or an entry is damaged.
    """
    with open_archive(path) as archive:
        total = sum(info.file_size for info in archive.infolist())
        folder.mkdir(parents=True, exist_ok=True)
        if total > (free := shutil.disk_usage(folder).free):
            raise ArchiveError(f"{path.name} unpacks to {total} bytes, and {folder} has room for {free}")
        for info in archive.infolist():
            try:
                archive.extract(info, folder)
            except UNREADABLE as error:
                raise ArchiveError(f"{path.name}: entry {info.filename} cannot be unpacked: {error}") from error


def _opened(content: Content) -> io.BytesIO | io.BufferedReader:
    return io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")
