"""Reads the contents of any archive without running any of it."""

from __future__ import annotations

import json
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tsctl.archive.checks import read_facts
from tsctl.archive.container import open_archive
from tsctl.archive.store import UNREADABLE, digest_of


@dataclass(frozen=True)
class Tensor:
    """One tensor of a safetensors file, from its header."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Contents:
    """The settings and entries of an archive."""

    path: str
    digest: str  # SHA-256 of the file
    bytes: int
    made_by: str  # tsctl or torch-model-archiver
    manifest: dict[str, Any]
    config: dict[str, Any]
    entries: dict[str, int]  # bytes by name
    tensors: dict[str, list[Tensor]]  # by safetensors file


def inspect_archive(path: Path) -> Contents:
    """Read the contents of the archive.

    Raises:
        ArchiveError: it is no archive.
    """
    with open_archive(path) as archive:
        facts = read_facts(archive)
        infos = sorted(archive.infolist(), key=lambda info: info.filename)
        return Contents(
            path=str(path),
            digest=digest_of(path),
            bytes=path.stat().st_size,
            made_by="torch-model-archiver" if facts.is_stock else "tsctl",
            manifest=facts.manifest,
            config=facts.config,
            entries={info.filename: info.file_size for info in infos},
            tensors={i.filename: read_tensors(archive, i) for i in infos if i.filename.endswith(".safetensors")},
        )


def read_tensors(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> list[Tensor]:
    """Names, types and shapes from the header of a safetensors entry; empty where it has no whole header."""
    with archive.open(info) as file:
        head = file.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 0 < length <= info.file_size:
            return []
        try:
            header = json.loads(file.read(length))
            return [
                Tensor(name, str(entry["dtype"]), tuple(entry["shape"]))
                for name, entry in header.items()
                if name != "__metadata__"
            ]
        except (*UNREADABLE, AttributeError, KeyError, TypeError):
            return []
