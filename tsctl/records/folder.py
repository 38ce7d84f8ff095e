"""The files of records in a folder that are to be read, and their replacement by others, all at once.

Invariant: a reader finds each record once, whenever the process that replaces files is killed. A replacement's journal,
`<name>.sources`, names the files that it stands for; they no longer count from the moment the replacement has its name.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

from handlers.record_files import PARQUET, RecordFile, record_files
from tsctl.host.files import write_secret

JOURNAL = ".sources"
#: A file in the making that is older than this has nobody who makes it.
STALE_S = 3600.0


def current_files(folder: Path) -> list[RecordFile]:
    """The files that hold each record once, the oldest first; none where there is no folder."""
    if not folder.is_dir():
        return []
    files = record_files(folder)
    replaced = {name for file in files for name in _sources(folder, file)}
    return [file for file in files if file.name not in replaced]


def replace(folder: Path, sources: Iterable[RecordFile], write: Callable[[Path], object]) -> RecordFile:
    """Put one Parquet file in place of others of one kind.

    Args:
        write: writes it to a path; what it writes counts once this returns.
    """
    replaced = sorted(sources)
    expiry_ms = max(file.expiry_ms for file in replaced)
    new = RecordFile(replaced[0].begin_ms, expiry_ms, replaced[0].kind, f"p{token_hex(6)}", PARQUET)
    making = folder / f".{new.name}"
    try:
        write(making)
        making.chmod(0o600)
        with making.open("rb") as file:
            os.fsync(file.fileno())
        write_secret(folder / f"{new.name}{JOURNAL}", json.dumps([file.name for file in replaced]))
        making.rename(folder / new.name)
    except BaseException:
        making.unlink(missing_ok=True)
        raise
    finish(folder)
    return new


def finish(folder: Path) -> None:
    """Remove what earlier replacements stand for, and what killed processes left in the making."""
    files = {file.name: file for file in record_files(folder)}
    for journal in folder.glob(f"*{JOURNAL}"):
        replacement = files.get(journal.name.removesuffix(JOURNAL))
        for name in _sources(folder, replacement) if replacement else ():
            (folder / name).unlink(missing_ok=True)
        journal.unlink(missing_ok=True)
    for making in folder.glob(".*"):
        with suppress(FileNotFoundError):
            if making.suffix != ".lock" and making.stat().st_mtime < time.time() - STALE_S:
                making.unlink()


def _sources(folder: Path, file: RecordFile) -> list[str]:
    """The names of the files that this one stands for and that may still be there."""
    if file.end != PARQUET:
        return []
    try:
        return [str(name) for name in json.loads((folder / f"{file.name}{JOURNAL}").read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return []
