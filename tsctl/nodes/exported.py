"""Folders that an export makes, whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

from tsctl.errors import SpecError
from tsctl.host.files import unwritable


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder that becomes `target` when the block has succeeded, and is removed where it fails.

    Raises:
        SpecError: `target` exists, or no folder can have its path.
        OSError: this machine refuses to make it.
    """
    if target.is_symlink() or target.exists():
        raise SpecError(f"{target} exists already", "Remove it, or give another folder.")
    making = target.with_name(f".{target.name}.{token_hex(4)}")
    try:
        making.mkdir(parents=True)
    except OSError as error:
        raise unwritable(target, error, "Give another folder.") from None
    try:
        yield making
        making.replace(target)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
