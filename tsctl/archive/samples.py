"""The samples of an archive: requests whose right answers it knows."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from mimetypes import MimeTypes
from pathlib import Path, PurePosixPath

from handlers.contract import BINARY, sample_media_type
from tsctl.archive.container import MAX_SAMPLES_BYTES, open_archive, read_entry
from tsctl.archive.inspect import read_facts
from tsctl.errors import ArchiveError

_FOLDER = "samples/"
#: Python's own table, without the files of this machine: an archive must not depend on them.
_KNOWN = MimeTypes()
for _suffix, _type in {".flac": "audio/flac", ".npy": "application/x-npy", ".pb": "application/x-protobuf"}.items():
    _KNOWN.add_type(_type, _suffix, strict=False)  # which it does not have


def read_samples(path: Path) -> list[tuple[str, bytes, str]]:
    """Name, body and media type of each sample in the archive; empty for a stock archive.

    Raises:
        ArchiveError: it cannot be read, or its samples have more than MAX_SAMPLES_BYTES bytes.
    """
    with open_archive(path) as archive:
        infos = [info for info in archive.infolist() if info.filename.startswith(_FOLDER) and not info.is_dir()]
        if sum(info.file_size for info in infos) > MAX_SAMPLES_BYTES:
            raise ArchiveError(f"{path}: its samples have more than {MAX_SAMPLES_BYTES} bytes")
        names = sorted(info.filename for info in infos)
        types = _types(archive, names)
        return [
            (name, read_entry(archive, name, MAX_SAMPLES_BYTES), sample_media_type(name, types) or BINARY)
            for name in names
        ]


def media_type_of_file(name: str, types: Mapping[str, str]) -> str | None:
    """The media type that a file's name says; None where it says none.

    Args:
        types: of archive.yaml, by suffixes; they come before those that Python's own table knows.
    """
    guessed, encoding = _KNOWN.guess_type(name, strict=False)
    known = guessed if guessed != BINARY and encoding is None else None
    return sample_media_type(name, types) or known


def sample_types(names: Iterable[str], stated: Mapping[str, str]) -> dict[str, str]:
    """The media types by suffix that a worker of these samples must be told, because it has no table of them.

    Args:
        stated: of archive.yaml.
    """
    found = dict(stated)
    for name in names:
        media_type = media_type_of_file(name, found)
        if media_type is not None and sample_media_type(name, found) is None:
            found[PurePosixPath(name).suffix.lower()] = media_type
    return dict(sorted(found.items()))


def _types(archive: zipfile.ZipFile, names: list[str]) -> Mapping[str, str]:
    """Media types by suffix, as the archive states them; not read where all suffixes are known."""
    if all(sample_media_type(name, {}) for name in names):
        return {}
    return read_facts(archive).serving.sample_types
