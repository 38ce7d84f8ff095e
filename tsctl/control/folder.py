"""A folder as a place: an object is a file that appears whole, under a name that it is the first to have.

`link` of a finished file is atomic and refuses a name that is taken, on local file systems and on NFS. On NFS its
answer may be lost and the call repeated: whether the link was made, the file's count of names says.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from tsctl.control.mounts import fault_of, mount_of
from tsctl.control.place import AlreadyThere, PlaceUnreachable, PlaceUnusable, is_name, require_name, require_small
from tsctl.host.files import sync_folder

#: Permissions of the folders and files: keys of clients may be in them.
_FOLDER, _FILE = 0o700, 0o600
#: Of `link` in a folder where a file could be made: FAT, and many file systems of FUSE.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


class FolderPlace:
    """A folder that all machines see under its own path.

    Args:
        address: an absolute path. The folder is never made here: where a mount is missing, that would be another place.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._root = Path(address)
        if not self._root.is_absolute():
            raise PlaceUnusable(f"control: {address} is no absolute path", "Give the whole path of the folder.")
        if self._root.exists() and not self._root.is_dir():
            raise PlaceUnusable(f"control: {address} is a file and no folder", "Correct the address.")
        mount = mount_of(self._root)
        if mount is not None and (fault := fault_of(mount)) is not None:
            raise PlaceUnusable(f"control: {fault[0]}", fault[1])

    def create(self, name: str, content: bytes) -> None:
        require_name(name)
        require_small(name, content)
        path = self._root / name
        with self._errors(f"write {name}"):
            self._make_folder(path.parent)
            unfinished = path.with_name(f".{path.name}.{token_hex(8)}")
            try:
                _write(unfinished, content)
                try:
                    os.link(unfinished, path)
                except FileExistsError:
                    if unfinished.stat().st_nlink < 2:  # else the link is ours, and its first answer was lost
                        raise AlreadyThere(name) from None
                except OSError as error:
                    if error.errno in _NO_LINKS:
                        raise PlaceUnusable(
                            f"control: the file system of {self.address} makes no hard links: {error.strerror}",
                            "Use a folder on ext4, xfs or NFS, or Redis, or S3.",
                        ) from None
                    raise
            finally:
                unfinished.unlink(missing_ok=True)
            sync_folder(path.parent)

    def read(self, name: str) -> bytes | None:
        require_name(name)
        with self._errors(f"read {name}"), self._opened() as root:
            try:
                descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=root)
            except (FileNotFoundError, NotADirectoryError):
                return None
            with os.fdopen(descriptor, "rb") as file:
                return file.read()

    def names(self, prefix: str) -> list[str]:
        folder = prefix.rpartition("/")[0]
        if folder:
            require_name(folder)
        with self._errors(f"list {prefix}"), self._opened() as root:
            return sorted(name for name in _files(folder or ".", root) if name.startswith(prefix) and is_name(name))

    def delete(self, name: str) -> None:
        require_name(name)
        with self._errors(f"remove {name}"), self._opened() as root, suppress(FileNotFoundError):
            os.unlink(name, dir_fd=root)

    def _make_folder(self, folder: Path) -> None:
        """Make a folder of the place, durably; OSError where the place itself is missing."""
        if folder.is_dir():
            return
        if folder == self._root:
            self._require_root()
        self._make_folder(folder.parent)
        folder.mkdir(mode=_FOLDER, exist_ok=True)
        sync_folder(folder.parent)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """The folder itself, open: what is looked for in it then is missing from it, and not with it.

        Raises OSError where it is not there.
        """
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _require_root(self) -> None:
        """Raises OSError where the folder is not there: to find nothing in it would be wrong."""
        os.stat(self._root)  # noqa: PTH116 - its error names the folder

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except (PermissionError, IsADirectoryError) as error:
            raise PlaceUnreachable(
                f"control: cannot {what} in {self.address}: {error.strerror}", "Make the folder writable for this user."
            ) from None
        except OSError as error:
            hint = f"Is it mounted? A new place is made by hand: mkdir -m 700 {self.address}"
            raise PlaceUnreachable(
                f"control: cannot {what} in {self.address}: {error.strerror}",
                hint if error.errno == errno.ENOENT else "Is there room, and does its server answer?",
            ) from None


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _files(folder: str, root: int) -> Iterator[str]:
    """The finished files below a folder of the place, by their names in it; none where there is no such folder.

    Args:
        root: the place, open.
    """
    try:
        for path, _, names, _ in os.fwalk(folder, dir_fd=root, onerror=_unless_gone):
            yield from (os.path.normpath(f"{path}/{name}") for name in names if not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return


def _unless_gone(error: OSError) -> None:
    """A folder that somebody removed meanwhile holds nothing; any other error is raised."""
    if not isinstance(error, FileNotFoundError):
        raise error
