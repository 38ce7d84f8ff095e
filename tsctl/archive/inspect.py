"""Reads the contents of any archive without running any of it."""

from __future__ import annotations

import json
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tsctl.archive.container import DIGESTS, MANIFEST, UNREADABLE, digest_of, open_archive
from tsctl.errors import ArchiveError


@dataclass
class Facts:
    """An archive's own description of itself: manifest and configuration."""

    manifest: dict[str, Any]
    config: dict[str, Any]
    is_stock: bool  # not built by tsctl

    @property
    def model(self) -> dict[str, Any]:
        model: dict[str, Any] = self.manifest["model"]
        return model

    @property
    def names(self) -> tuple[str, str]:
        """Model and version; TorchServe takes a version that is missing for 1.0."""
        return str(self.model.get("modelName") or ""), str(self.model.get("modelVersion") or "1.0")

    @property
    def batch_size(self) -> int:
        size = self.config.get("batchSize", 1)
        return size if isinstance(size, int) and size > 0 else 1


def read_facts(archive: zipfile.ZipFile) -> Facts:
    """The archive's manifest and configuration.

    Raises:
        ArchiveError: one of them cannot be read.
    """
    try:
        manifest = json.loads(archive.read(MANIFEST))
        name = manifest["model"].get("configFile")
        config = yaml.safe_load(archive.read(name)) if name in archive.namelist() else {}
    except (*UNREADABLE, KeyError, AttributeError, TypeError, yaml.YAMLError) as error:
        raise ArchiveError(
            f"{archive.filename} is no archive: its manifest or configuration cannot be read: {error}"
        ) from error
    return Facts(manifest, config if isinstance(config, dict) else {}, DIGESTS not in archive.namelist())


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
