"""Pulls archives from the store of all machines into the one of this machine, each whole and verified, or not at all.

Invariants: bytes have the name of an archive only after their whole SHA-256 was compared, and an archive is current
only after it could be read. What was pulled before a cut or a kill is kept in a hidden file, and the next pull goes on
there. One process pulls an archive at a time; others wait, and find it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tsctl.archive.container import digest_of
from tsctl.archive.known import golden_file, read_answers, read_folder
from tsctl.archive.remote_store import Blob, Entry, Kept, RemoteStore, store_errors
from tsctl.archive.store import (
    StoredArchive,
    archive_of,
    list_archives,
    make_current,
    parse_name,
    require_readable,
    store_name,
)
from tsctl.config.project import Project
from tsctl.errors import ArchiveError
from tsctl.host.files import make_folder, write_document, write_public
from tsctl.host.locks import exclusive, is_held
from tsctl.host.progress import Note
from tsctl.host.remote import Again
from tsctl.host.retry import Patience

#: How long a pull waits for another process that pulls the same archive.
OTHER_S = 3600.0
#: Left free on the disk beside what is pulled.
SPARE_BYTES = 64 << 20


@dataclass(frozen=True)
class Pulled:
    """An archive of this machine's store that came from the store of all machines."""

    archive: StoredArchive
    digest: str  # its whole SHA-256
    bytes: int
    is_new: bool  # it was not here before
    used_s: float = 0.0  # when it was needed last, in seconds since 1970; 0: not asked for


def pull(
    project: Project,
    store: RemoteStore,
    entry: Entry,
    note: Note = lambda text: None,
    make_room: Callable[[Entry], None] = lambda entry: None,
    publish: bool = False,
) -> Pulled:
    """Have the archive of a version in this machine's store, with what is kept beside it.

    Args:
        note: gets the progress.
        make_room: called before anything is pulled; may remove archives that nothing needs.
        publish: make it the current archive of its version also where another one is.

    Raises:
        ArchiveError: the store does not answer, its bytes are wrong, or this machine has no room.
        ConflictError: another process pulls it for an hour already.
    """
    name = store_name(entry.model, entry.version, entry.archive.digest)
    target, part = project.store / name, project.store / f".pulling.{entry.archive.digest}"
    lock = project.state / "store" / "locks" / name
    with _writing(part):
        project.store.mkdir(parents=True, exist_ok=True)
        if is_held(lock):
            note("another tsctl pulls it")
        with exclusive(lock, f"the archive {name}", OTHER_S):
            is_new = not _is_here(project, target, entry.archive)
            if is_new:
                make_room(entry)
                _pull_whole(store, entry.archive, part, note)
                _require_named(part, entry, store)
                part.chmod(0o644)
                part.replace(target)
            _remember(project, target, entry.archive, store.address, is_new)
            archive = archive_of(target)
            if publish or not any(other.is_current and other.key == archive.key for other in list_archives(project)):
                archive = make_current(project, archive)
            _keep(project, store, entry)
    return Pulled(archive, entry.archive.digest, entry.archive.bytes, is_new)


def pulled_archives(project: Project) -> list[Pulled]:
    """The archives of this machine's store that were pulled, the longest unused first."""
    found = []
    for record in (project.state / "store" / "pulled").glob("*.json"):
        path = project.store / record.name.removesuffix(".json")
        with suppress(OSError, ValueError, KeyError, TypeError):  # it is gone, or damaged: then it is never removed
            content = json.loads(record.read_bytes())
            if path.is_file():
                digest, size = str(content["digest"]), int(content["bytes"])
                found.append(Pulled(archive_of(path), digest, size, False, record.stat().st_mtime))
    return sorted(found, key=lambda pulled: (pulled.used_s, pulled.archive.path.name))


def was_pulled(project: Project, name: str) -> bool:
    """Whether the archive of that file name came from the store of all machines, here or not any more."""
    return _record(project, name).is_file()


def was_pulled_once(project: Project, model: str, version: str) -> bool:
    """Whether an archive of the version came from the store of all machines, here or not any more."""
    records = (project.state / "store" / "pulled").glob(f"{model}-{version}-*.json")
    parsed = (parse_name(record.name.removesuffix(".json")) for record in records)
    return any(names is not None and names[:2] == (model, version) for names in parsed)


def used_now(project: Project, name: str) -> None:
    """Note that the archive is needed now, where it was pulled."""
    with suppress(OSError):  # it was not pulled, or the disk is read-only: it counts as unused for longer
        os.utime(_record(project, name))


def remove_pulled(project: Project, pulled: Pulled) -> None:
    """Remove a pulled archive of this machine; the next pull brings it again."""
    path = project.store / pulled.archive.path.name
    if path.is_symlink():
        (project.published / path.name).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def kept_beside(project: Project, model: str, version: str, is_stock: bool) -> Kept:
    """The requests and golden answers that are kept beside a stock archive; nothing of another one.

    Raises:
        ArchiveError: they cannot be read.
    """
    if not is_stock:
        return Kept({}, {})
    folder = project.archives / model
    samples = {name.removeprefix("samples/"): body for name, body, _ in read_folder(folder / "samples")}
    answers = read_answers(golden_file(folder, version))
    return Kept(samples, {name: answer for name, answer in answers.items() if name in samples})


# ---- the bytes -------------------------------------------------------------------------------------------------------


def _pull_whole(store: RemoteStore, blob: Blob, part: Path, note: Note) -> None:
    """The hidden file has all bytes of the blob."""
    is_resumed = part.is_file() and part.stat().st_size > 0
    while (digest := _pull_rest(store, blob, part, note)) != blob.digest:
        part.unlink()
        if not is_resumed:
            raise ArchiveError(
                f"{store.address}/blobs/{blob.digest} has the SHA-256 {digest}, so its bytes are wrong",
                "They were removed here. Remove that file there, and push the archive again from where it was built.",
            )
        note("what an earlier pull left is damaged, so all is pulled again")
        is_resumed = False


def _pull_rest(store: RemoteStore, blob: Blob, part: Path, note: Note) -> str:
    """The hidden file has as many bytes as the blob; what it has already is kept. Returns their SHA-256."""
    with part.open("a+b") as file, store_errors(store.address):
        if file.tell() > blob.bytes:
            file.truncate(0)
        _require_room(part.parent, blob.bytes - file.seek(0, os.SEEK_END))
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256")
        patience, most = Patience(), file.tell()
        while (begin := file.tell()) < blob.bytes:
            try:
                for position, block in store.stream(blob, begin):
                    if position != file.tell():  # the server knows no ranges, and began anew
                        file.seek(0)
                        file.truncate()
                        digest = hashlib.sha256()
                    kept = block[: blob.bytes - position]
                    file.write(kept)
                    digest.update(kept)
                    if file.tell() > most:
                        most = file.tell()
                        patience.progressed()
                    note(f"{most >> 20} of {blob.bytes >> 20} MiB")
                if file.tell() < blob.bytes:
                    raise Again(f"the connection ended after {file.tell()} of {blob.bytes} bytes")
            except Again as error:
                patience.pause(error)
                note(f"{error}; going on at {file.tell() >> 20} of {blob.bytes >> 20} MiB")
        file.flush()
        os.fsync(file.fileno())
        return digest.hexdigest()


def _require_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size + SPARE_BYTES:
        raise ArchiveError(
            f"{folder} has {free >> 20} MiB free, and the archive needs {(size + SPARE_BYTES) >> 20} MiB",
            "Remove what nothing needs: tsctl archive tidy",
        )


def _require_named(part: Path, entry: Entry, store: RemoteStore) -> None:
    """The bytes are a readable archive of that model and version."""
    try:
        names = require_readable(part)
    except ArchiveError as error:
        part.unlink()
        raise ArchiveError(f"{entry.name} of the store {store.address}: {error.message}", error.hint) from None
    if names != (entry.model, entry.version):
        part.unlink()
        raise ArchiveError(f"the archive of {entry.name} in the store {store.address} holds {' '.join(names)}")


# ---- what is here ----------------------------------------------------------------------------------------------------


def _is_here(project: Project, path: Path, blob: Blob) -> bool:
    """Whether the archive is here, whole; a file that was compared before and has not changed is not read again."""
    return path.is_file() and (_is_as_pulled(project, path, blob) or digest_of(path) == blob.digest)


def _is_as_pulled(project: Project, path: Path, blob: Blob) -> bool:
    """Whether the file is the one whose bytes were compared when it was pulled."""
    try:
        status, record = path.stat(), json.loads(_record(project, path.name).read_bytes())
        seen = record["digest"], record["changed_ns"], record["bytes"]
        return bool(seen == (blob.digest, status.st_mtime_ns, status.st_size))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _remember(project: Project, path: Path, blob: Blob, address: str, is_new: bool) -> None:
    """Write down that it was pulled; one that was built here, and is in the store as well, is never removed."""
    record = _record(project, path.name)
    if is_new:
        make_folder(record.parent)
        status = path.stat()
        content = {"digest": blob.digest, "bytes": status.st_size, "changed_ns": status.st_mtime_ns, "from": address}
        write_document(record, content)
    else:
        used_now(project, path.name)


def _record(project: Project, name: str) -> Path:
    return project.state / "store" / "pulled" / f"{name}.json"


def _keep(project: Project, store: RemoteStore, entry: Entry) -> None:
    """Keep the samples and golden answers of the version beside it; the project's own files stay as they are."""
    folder = project.archives / entry.model
    same = set()
    for name, blob in entry.samples.items():
        path = folder / "samples" / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            content = store.read(blob)
            making = path.with_name(f".{name}.{os.getpid()}")
            making.write_bytes(content)
            making.replace(path)
        if hashlib.sha256(path.read_bytes()).hexdigest() == blob.digest:
            same.add(name)
    golden = golden_file(folder, entry.version)
    answers = read_answers(golden)
    more = {name: answer for name, answer in entry.golden.items() if name in same and name not in answers}
    if more:
        golden.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**answers, **more}, indent=1, sort_keys=True, ensure_ascii=False)
        write_public(golden, text + "\n")


@contextmanager
def _writing(part: Path) -> Iterator[None]:
    """Raises ArchiveError where this machine cannot write; what a full disk left unfinished is removed."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            part.unlink(missing_ok=True)
        raise ArchiveError(
            f"{error.filename or part.parent} cannot be written: {error.strerror or error}",
            "Archives are pulled into archives/store of the project; it needs room, and the right to write there.",
        ) from error
