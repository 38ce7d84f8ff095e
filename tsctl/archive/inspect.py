"""Reads the contents of any archive without running any of it."""

from __future__ import annotations

import struct
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, TypeGuard, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from handlers.contract import MOST_WORKERS, Tolerance
from tsctl.archive.container import (
    CONFIG,
    DIGESTS,
    GOLDEN,
    MANIFEST,
    MAX_CONFIG_BYTES,
    MAX_DOCUMENT_BYTES,
    REFERENCE,
    UNREADABLE,
    digest_of,
    open_archive,
    read_entry,
)
from tsctl.config import archive as spec
from tsctl.config.requirements import MOST_REQUIREMENTS, Requirement
from tsctl.config.secrets import SecretNames
from tsctl.config.spec import mistakes
from tsctl.config.yaml_files import parse_yaml
from tsctl.drift.reference import Reference, UnusableReference, from_json
from tsctl.errors import ArchiveError
from tsctl.host.documents import parse_json

#: The integers of the configuration that TorchServe reads, and their ranges.
INTEGERS = {
    "minWorkers": (0, MOST_WORKERS), "maxWorkers": (0, MOST_WORKERS), "batchSize": (1, 1024),
    "maxBatchDelay": (0, 86_400_000),
    "responseTimeout": (1, 86_400), "startupTimeout": (1, 86_400), "maxRetryTimeoutInSec": (1, 86_400),
    "jobQueueSize": (1, 1_000_000),
}  # fmt: skip
#: The largest header of a safetensors file that is shown.
_HEADER_BYTES = 8 << 20
_MOST_AXES = 64


class _Document(BaseModel):
    """A part of a file that others wrote: the keys that are read have types, other keys are kept."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)


class ManifestModel(_Document):
    """`model` of MANIFEST.json, with TorchServe's names."""

    modelName: Annotated[str, Field(min_length=1)]
    handler: Annotated[str, Field(min_length=1)]
    modelVersion: str | None = None
    serializedFile: str | None = None
    configFile: str | None = None
    requirementsFile: str | None = None


class Manifest(_Document):
    """MANIFEST.json."""

    model: ManifestModel


class Generation(_Document):
    """`serving.generation` of a text model, as far as tsctl reads it."""

    backend: str = "auto"
    context: Annotated[int, Field(ge=1)] = 1
    max_answers: Annotated[int, Field(ge=1)] = 1
    first_token_s: Annotated[float, Field(gt=0, strict=False)] | None = None  # None: as long as a whole answer


class Serving(_Document):
    """`serving` of model-config.yaml, as far as tsctl reads it."""

    handler: str | None = None
    tolerance: spec.Tolerance = spec.Tolerance()
    limits: spec.Limits | None = None
    records: spec.Records | None = None
    compare: spec.Compare | None = None
    sample_types: spec.SampleTypes = {}
    generation: Generation | None = None  # of a text model
    secrets: SecretNames = ()
    requirements: Annotated[tuple[Requirement, ...], Field(max_length=MOST_REQUIREMENTS, strict=False)] = ()
    embeddings: bool = False


class Config(_Document):
    """model-config.yaml, as far as tsctl reads it; checks.py looks at TorchServe's own keys."""

    serving: Serving | None = None


@dataclass(frozen=True)
class Facts:
    """An archive's own description of itself: manifest and configuration."""

    manifest: Manifest
    config: dict[str, Any]
    serving: Serving
    is_stock: bool  # not built by tsctl

    @property
    def names(self) -> tuple[str, str]:
        """Model and version; TorchServe takes a version that is missing for 1.0."""
        return self.manifest.model.modelName, self.manifest.model.modelVersion or "1.0"

    @property
    def handler(self) -> str:
        """The author's handler."""
        return self.serving.handler or self.manifest.model.handler

    @property
    def batch_size(self) -> int:
        return self.integer("batchSize") or 1

    @property
    def is_text(self) -> bool:
        """Whether the model generates text, token by token."""
        return self.serving.generation is not None

    @property
    def together(self) -> int:
        """Requests that a worker computes together."""
        generation = self.serving.generation
        return self.batch_size if generation is None else generation.max_answers

    @property
    def tolerance(self) -> Tolerance:
        """How far an answer may lie from the golden one."""
        return Tolerance(**self.serving.tolerance.model_dump())

    def integer(self, key: str) -> int | None:
        """A value of the configuration; None where it is missing, or no integer: TorchServe ignores it then."""
        value = self.config.get(key)
        return value if is_integer(value) else None


def is_integer(value: object) -> TypeGuard[int]:
    """Whether TorchServe takes it for a number."""
    return isinstance(value, int) and not isinstance(value, bool)


def read_facts(archive: zipfile.ZipFile) -> Facts:
    """The archive's manifest and configuration.

    Raises:
        ArchiveError: one of them cannot be read, or does not fit.
    """
    manifest = _validated(archive, MANIFEST, Manifest, _parsed(archive, MANIFEST))
    name = manifest.model.configFile
    config = _parsed(archive, name) if name in archive.namelist() else None
    content = {} if config is None else config
    serving = _validated(archive, name or CONFIG, Config, content).serving
    for key, (least, most) in INTEGERS.items():
        if is_integer(value := content.get(key)) and not least <= value <= most:
            raise ArchiveError(f"{archive.filename}: {name}: {key}: {value}: expected {least} to {most}")
    return Facts(manifest, content, serving or Serving(), DIGESTS not in archive.namelist())


def facts_of(path: Path) -> Facts:
    """As `read_facts` for the archive in this file, which is read once for as long as the file stays as it is.

    Raises:
        ArchiveError: as `open_archive` and `read_facts`.
    """
    try:
        status = path.stat()
    except OSError:
        return _facts(path, 0, 0, 0)  # says why
    return _facts(path, status.st_ino, status.st_mtime_ns, status.st_size)


@lru_cache(16_384)
def _facts(path: Path, inode: int, changed_ns: int, size: int) -> Facts:
    with open_archive(path) as archive:
        return read_facts(archive)


def read_golden_answers(archive: zipfile.ZipFile) -> dict[str, Any]:
    """The golden answers of an archive, by sample; none in an archive that tsctl did not build.

    Raises:
        ArchiveError: they cannot be read.
    """
    content = _parsed(archive, GOLDEN) if GOLDEN in archive.namelist() else {}
    if not isinstance(content, dict):
        raise ArchiveError(f"{archive.filename}: {GOLDEN} is no object of answers by sample")
    return content


def read_references(archive: zipfile.ZipFile) -> dict[str, Reference]:
    """What inputs and predictions looked like on the archive's reference data, by feature; none where it has no data.

    Raises:
        ArchiveError: they cannot be read.
    """
    if REFERENCE not in archive.namelist():
        return {}
    try:
        return from_json(_parsed(archive, REFERENCE))
    except UnusableReference as error:
        raise ArchiveError(f"{archive.filename}: {REFERENCE}: {error}") from None


def _parsed(archive: zipfile.ZipFile, name: str) -> Any:
    is_json = name in (MANIFEST, GOLDEN, REFERENCE)
    content = read_entry(archive, name, MAX_DOCUMENT_BYTES if is_json else MAX_CONFIG_BYTES)
    try:
        return parse_json(content) if is_json else parse_yaml(content, exact=False)
    except ValueError as error:
        raise ArchiveError(f"{archive.filename}: {name} cannot be read: {error}") from None


Part = TypeVar("Part", bound=BaseModel)


def _validated(archive: zipfile.ZipFile, name: str, model: type[Part], content: Any) -> Part:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ArchiveError("\n".join(mistakes(f"{archive.filename}: {name}", model, error))) from None


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
    handler: str
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
            handler=facts.handler,
            manifest=facts.manifest.model_dump(exclude_unset=True),
            config=facts.config,
            entries={info.filename: info.file_size for info in infos},
            tensors={i.filename: read_tensors(archive, i) for i in infos if i.filename.endswith(".safetensors")},
        )


def read_tensors(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> list[Tensor]:
    """Names, types and shapes from the header of a safetensors entry; empty where it has no whole header."""
    try:
        with archive.open(info) as file:
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
            if not 0 < length <= min(info.file_size, _HEADER_BYTES):
                return []
            header = parse_json(file.read(length))
    except UNREADABLE:
        return []
    entries = header.items() if isinstance(header, dict) else ()
    return [tensor for name, entry in entries if (tensor := _tensor(name, entry)) is not None]


def _tensor(name: str, entry: Any) -> Tensor | None:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape)} if len(shape) <= _MOST_AXES and all(map(is_integer, shape)):
            return Tensor(name, dtype, tuple(shape))
        case _:
            return None  # also `__metadata__`
