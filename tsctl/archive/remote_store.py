"""The store of all machines: archives at one address, found by model and version, and named by their whole digest.

    ADDRESS/blobs/SHA256                               the bytes of an archive, or of a request kept beside one
    ADDRESS/archives/MODEL/VERSION/000001.json         which blobs a version consists of; the last number counts

Invariants: a version has one archive for ever. Blobs are there before the entry that names them, an entry is made only
where none of its number is, and no entry is changed: a reader sees all of a version, or nothing.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints, ValidationError

from tsctl.config.project import Project
from tsctl.config.spec import ModelName, ModelVersion, SpecModel
from tsctl.config.store import StoreSpec
from tsctl.errors import ArchiveError, ConflictError, SpecError
from tsctl.host.documents import parse_json
from tsctl.host.remote import Exists, Missing, Refused, RemoteError, Unreachable, Unusable, absolute
from tsctl.host.remote_files import Files, open_files
from tsctl.host.retry import persistently
from tsctl.mistakes import first_mistake

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
#: Of the file name of a sample.
SampleName = Annotated[str, StringConstraints(pattern=r"^[^/\\\x00-\x1f.][^/\\\x00-\x1f]*$", max_length=255)]
#: The form of entries that this tsctl writes, and the newest that it reads.
FORMAT = 1
_MOST_ENTRIES = 999_999


class StoreUnavailable(ArchiveError):
    """The store does not answer, or refuses, whatever is asked for."""


class Blob(SpecModel):
    """Bytes in the store."""

    digest: Digest
    bytes: Annotated[int, Field(ge=0)]


class Entry(SpecModel):
    """What a version consists of."""

    format: Annotated[int, Field(ge=1, le=FORMAT)] = FORMAT
    model: ModelName
    version: ModelVersion
    archive: Blob
    samples: dict[SampleName, Blob] = {}  # requests that are kept beside a stock archive
    golden: dict[str, Any] = {}  # their answers, by the name of the sample
    pushed: str = ""  # when, in ISO 8601

    @property
    def name(self) -> str:
        """'digits 1.0'."""
        return f"{self.model} {self.version}"


@dataclass(frozen=True)
class Kept:
    """Requests that are kept beside a stock archive, and their answers."""

    samples: Mapping[str, bytes]  # by file name
    golden: Mapping[str, Any]


@dataclass(frozen=True)
class Pushed:
    """What a push did."""

    entry: Entry
    is_new: bool  # the version was not in the store
    has_more: bool  # samples or golden answers were added
    is_guarded: bool = True  # the store makes files only where there are none


class RemoteStore:
    """The store at one address.

    Raises:
        SpecError: a package is missing, or nobody knows the address's scheme or an option.

    Every method raises ArchiveError where the store cannot be used.
    """

    def __init__(self, address: str, options: Mapping[str, Any], files: Files | None = None) -> None:
        self.address = address
        with self._errors():
            self._files = files or open_files(address, options)

    def entry(self, model: str, version: str) -> Entry | None:
        """What a version consists of; None where it is not in the store."""
        if (found := self._last(model, version)) is not None:
            return found[1]
        with self._errors():
            self._files.require_place()
        return None

    def require(self, model: str, version: str, digest: str = "") -> Entry:
        """What a version consists of, whose archive's digest begins so.

        Raises:
            ArchiveError: the version is not in the store, or has another archive there.
        """
        entry = self.entry(model, version)
        if entry is None:
            raise ArchiveError(
                f"{model} {version} is not in the store {self.address}",
                f"Where it was built: tsctl archive push {model}:{version}",
            )
        if not entry.archive.digest.startswith(digest):
            raise ArchiveError(
                f"the store {self.address} has {model} {version} with the digest {entry.archive.digest}, and"
                f" {digest} is wanted",
                "A version has one archive for ever. Name the version that was pushed with that digest.",
            )
        return entry

    def models(self) -> list[str]:
        """The models in the store, by name; none only where the place itself is there."""
        with self._errors():
            if not (names := self._files.names("archives")):
                self._files.require_place()
            return names

    def versions(self, model: str) -> list[str]:
        """The versions of a model in the store, by name; none where it has none."""
        with self._errors():
            return self._files.names(f"archives/{model}")

    def stream(self, blob: Blob, begin: int) -> Iterator[tuple[int, bytes]]:
        """The bytes of an archive from `begin` on, each block with its position; raises RemoteError."""
        return self._files.stream(f"blobs/{blob.digest}", begin, blob.bytes)

    def read(self, blob: Blob) -> bytes:
        """The bytes of a sample.

        Raises:
            ArchiveError: they are others than their name says.
        """
        with self._errors():
            content = self._files.read(f"blobs/{blob.digest}")
        if hashlib.sha256(content).hexdigest() != blob.digest:
            raise ArchiveError(f"{self.address}/blobs/{blob.digest} has other bytes than its name says", _PUSH_AGAIN)
        return content

    def push(self, path: Path, model: str, version: str, digest: str, kept: Kept) -> Pushed:
        """Have an archive of this machine in the store, with the samples that are kept beside it.

        Args:
            digest: the whole SHA-256 of the file.

        Raises:
            ConflictError: the version is in the store with other bytes, or a sample or an answer is another one there.
            ArchiveError: the store is only read.
        """
        if not self._files.is_writable:
            raise ArchiveError(
                f"the store {self.address} is only read, because it is an HTTP address",
                "Push to the folder or bucket behind it: tsctl archive push --store ADDRESS",
            )
        archive = Blob(digest=digest, bytes=path.stat().st_size)
        while True:
            last = self._last(model, version)
            number, before = last if last is not None else (0, None)
            wanted = self._merged(before, Entry(model=model, version=version, archive=archive), kept)
            self._put(path, archive)
            if wanted == before:
                return Pushed(before, is_new=False, has_more=False)
            for content in kept.samples.values():
                self._put_content(content)
            stamped = wanted.model_copy(update={"pushed": datetime.now(UTC).isoformat(timespec="seconds")})
            is_ours, is_guarded = self._create(model, version, number + 1, stamped)
            if is_ours:
                return Pushed(stamped, before is None, before is not None, is_guarded)

    # ---- entries -----------------------------------------------------------------------------------------------------

    def _last(self, model: str, version: str) -> tuple[int, Entry] | None:
        """The last entry of a version, with its number."""
        last: tuple[int, Entry] | None = None
        for number in range(1, _MOST_ENTRIES):
            name = _entry_name(model, version, number)
            with self._errors():
                try:
                    content = self._files.read(name)
                except Missing:
                    return last
            entry = self._parsed(name, content)
            if (entry.model, entry.version) != (model, version) or (last and entry.archive != last[1].archive):
                raise ArchiveError(f"{self.address}/{name} names another archive than it may", _PUSH_AGAIN)
            last = number, entry
        return last

    def _parsed(self, name: str, content: bytes) -> Entry:
        try:
            document = parse_json(content)
            if isinstance(document, dict) and isinstance(document.get("format"), int) and document["format"] > FORMAT:
                raise ArchiveError(f"{self.address}/{name} was written by a newer tsctl", "Use that one here as well.")
            return Entry.model_validate(document)
        except ValueError as error:
            reason = first_mistake(error) if isinstance(error, ValidationError) else str(error)
            raise ArchiveError(f"{self.address}/{name} is damaged: {reason}", _PUSH_AGAIN) from None

    def _merged(self, before: Entry | None, wanted: Entry, kept: Kept) -> Entry:
        """The entry with what both have; raises ConflictError where they differ."""
        if before is not None and before.archive != wanted.archive:
            raise ConflictError(
                f"{wanted.name} is in the store {self.address} with other bytes: {before.archive.digest} there, and"
                f" {wanted.archive.digest} here",
                "Give the new bytes a new version.",
            )
        samples = {name: _blob(content) for name, content in kept.samples.items()}
        golden = dict(kept.golden)
        for what, ours, theirs in (
            ("sample", samples, before.samples if before else {}),
            ("golden answer to", golden, before.golden if before else {}),
        ):
            if other := sorted(name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]):
                raise ConflictError(
                    f"{wanted.name} has another {what} {', '.join(other)} in the store {self.address}",
                    "Pull it there, and give another sample another name.",
                )
        return (before or wanted).model_copy(
            update={
                "samples": {**(before.samples if before else {}), **samples},
                "golden": {**(before.golden if before else {}), **golden},
            }
        )

    def _create(self, model: str, version: str, number: int, entry: Entry) -> tuple[bool, bool]:
        """Whether the entry of that number is this one now, and whether the store refuses to make it again."""
        name = _entry_name(model, version, number)
        content = (json.dumps(entry.model_dump(), sort_keys=True, indent=1) + "\n").encode()
        with self._errors():
            try:
                persistently(lambda: self._files.create(name, content))
            except Exists:
                return self._files.read(name) == content, True
            try:
                persistently(lambda: self._files.create(name, content))
            except Exists:
                return self._files.read(name) == content, True
            return True, False

    # ---- blobs -------------------------------------------------------------------------------------------------------

    def _put(self, path: Path, blob: Blob) -> None:
        """The bytes are in the store; what is there whole is not sent again."""
        with self._errors():
            if self._files.size(f"blobs/{blob.digest}") != blob.bytes:
                persistently(lambda: self._files.put(path, f"blobs/{blob.digest}"))

    def _put_content(self, content: bytes) -> None:
        with self._errors():
            blob = _blob(content)
            if self._files.size(f"blobs/{blob.digest}") != blob.bytes:
                try:
                    persistently(lambda: self._files.create(f"blobs/{blob.digest}", content))
                except Exists:
                    return  # another push made it meanwhile

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with store_errors(self.address):
            yield


_PUSH_AGAIN = "Have somebody look who may write there; nothing of it is used."


@contextmanager
def store_errors(address: str) -> Iterator[None]:
    """Raises SpecError or ArchiveError, with what to do next, where the block raises a RemoteError."""
    try:
        yield
    except Unusable as error:
        raise SpecError(
            f"the store {address} cannot be used: {error}",
            "See `store` in deployment.yaml. S3 needs the package s3fs, and Google's storage gcsfs.",
        ) from error
    except Refused as error:
        raise StoreUnavailable(
            f"the store {address} refuses it: {error}",
            "Make the folder writable for this user, or give the right credentials: in the environment, or as"
            " `store: options:` in deployment.yaml.",
        ) from error
    except Missing as error:
        raise ArchiveError(f"the store {address} lacks a file that it should have: {error}", _PUSH_AGAIN) from error
    except Unreachable as error:
        raise StoreUnavailable(
            f"the store {address} cannot be reached: {error}",
            "Is the address right, and can this machine reach it? For S3, `store: options: endpoint_url` or"
            " AWS_ENDPOINT_URL names the server.",
        ) from error
    except RemoteError as error:
        is_full = isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT)
        raise StoreUnavailable(
            f"the store {address} does not answer as it should: {error}",
            "Make room there, and run this again." if is_full else "Run this again; it goes on where it was.",
        ) from error


def open_store(project: Project, spec: StoreSpec) -> RemoteStore:
    """The store of deployment.yaml; nothing is asked yet.

    Raises:
        SpecError: a package is missing, nobody knows the address's scheme or an option, or the store would lie among
            the project's own archives.
    """
    address = absolute(spec.address, project.root)
    if address == str(project.root.resolve()):
        raise SpecError(
            f"the store {address} is the project's own folder, whose archives/ has something else",
            "Name another folder, such as one that all machines see.",
        )
    return RemoteStore(address, spec.options)


def _entry_name(model: str, version: str, number: int) -> str:
    return f"archives/{model}/{version}/{number:06}.json"


def _blob(content: bytes) -> Blob:
    return Blob(digest=hashlib.sha256(content).hexdigest(), bytes=len(content))
