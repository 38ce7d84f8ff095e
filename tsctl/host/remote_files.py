"""Files at one place, by name: a place that fsspec knows, or an HTTP server, which is only read.

Invariants: a name never changes its bytes. `create` makes a file only where there is none, and a reader sees it whole
or not at all. Every call raises a RemoteError, and within CALL_S seconds where the place works over a network.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath
from secrets import token_hex
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urljoin, urlsplit

import requests

from tsctl.host.remote import (
    AGAIN,
    CALL_S,
    CONNECT_S,
    Again,
    Missing,
    Refused,
    RemoteError,
    TooSlow,
    Unreachable,
    Unusable,
    call,
    is_local,
    is_object_store,
    is_unconnected,
    one_error,
    open_system,
    put_whole,
)
from tsctl.host.retry import persistently

#: Bytes of one request, and the fewest where the place is slow.
BLOCK, LEAST_BLOCK = 8 << 20, 256 << 10
#: Bytes that are taken from a connection at a time; fewer are lost with it where it is cut.
CHUNK = 1 << 16
#: Of a file that is read into memory.
MAX_BYTES = 128 << 20
_LINK = re.compile(r"""<a\s[^>]*href\s*=\s*["']([^"'?#]+)""", re.IGNORECASE)
_RANGE = re.compile(r"bytes (\d+)-")
Result = TypeVar("Result")


class Files(ABC):
    """The files of a place; names are such as `a/b.json`."""

    #: Whether files can be made there.
    is_writable = True

    def require_place(self) -> None:
        """Check that the folder or the bucket is there, where that can be known; else Unusable."""
        return

    @abstractmethod
    def read(self, name: str) -> bytes:
        """A small file.

        Raises:
            Missing: there is none.
        """

    @abstractmethod
    def stream(self, name: str, begin: int, size: int) -> Iterator[tuple[int, bytes]]:
        """The bytes of a file from `begin` on, in blocks, each with its position.

        A server that knows no ranges begins at 0 again.

        Args:
            size: of the whole file.
        """

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """The names in a folder, without it, sorted; none where there is no such folder."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Its bytes; None where there is no such file."""

    @abstractmethod
    def create(self, name: str, content: bytes) -> None:
        """Make a small file.

        Raises:
            Exists: there is one, which stays.
        """

    @abstractmethod
    def put(self, path: Path, name: str) -> None:
        """Make a file of the bytes of a local one; one that is there is replaced."""


def open_files(address: str, options: Mapping[str, Any]) -> Files:
    """The place of the address; nothing is asked yet.

    Raises:
        Unusable: a package is missing, or nobody knows the scheme or an option.
    """
    if urlsplit(address).scheme in ("http", "https"):
        return HttpFiles(address, options)
    with one_error(options):
        return FsspecFiles(*open_system(address, options), options)


class FsspecFiles(Files):
    """A folder, an object store, or anything else that fsspec knows."""

    def __init__(self, system: Any, root: str, options: Mapping[str, Any]) -> None:
        self._system, self._root, self._options = system, root, options

    def require_place(self) -> None:
        if is_local(self._system) and not Path(self._root).is_dir():
            raise Unusable("there is no such folder")
        if is_object_store(self._system):
            bucket = self._root.partition("/")[0]
            if not self._ask(lambda: self._call("exists", bucket)):
                raise Unusable(f"there is no bucket {bucket}")

    def read(self, name: str) -> bytes:
        content: bytes = self._ask(lambda: self._call("cat_file", self._path(name)))
        return content

    def stream(self, name: str, begin: int, size: int) -> Iterator[tuple[int, bytes]]:
        block = BLOCK
        while begin < size:
            end = min(size, begin + block)
            try:
                with one_error(self._options):
                    content: bytes = self._call("cat_file", self._path(name), start=begin, end=end)
            except TooSlow:
                if block == LEAST_BLOCK:
                    raise
                block = max(LEAST_BLOCK, block // 8)
                continue
            if len(content) != end - begin:
                raise Again(f"{len(content)} bytes came of {end - begin}")
            yield begin, content
            begin = end

    def names(self, folder: str) -> list[str]:
        def find() -> list[str]:
            try:
                found = self._call("ls", self._path(folder), detail=False, **self._fresh())
            except (FileNotFoundError, NotADirectoryError):
                return []
            return sorted({PurePosixPath(str(path)).name for path in found} - {PurePosixPath(folder).name})

        return self._ask(find)

    def size(self, name: str) -> int | None:
        def find() -> int | None:
            self._system.invalidate_cache()
            try:
                return int(self._call("size", self._path(name)))
            except (FileNotFoundError, NotADirectoryError):
                return None

        return self._ask(find)

    def create(self, name: str, content: bytes) -> None:
        with one_error(self._options):
            if is_local(self._system):
                return _create_file(Path(self._path(name)), content)
            if not is_object_store(self._system):
                self._system.makedirs(str(PurePosixPath(self._path(name)).parent), exist_ok=True)
            self._call("pipe_file", self._path(name), content, mode="create")

    def put(self, path: Path, name: str) -> None:
        size = path.stat().st_size
        try:
            there = self._ask(lambda: put_whole(self._system, path, self._path(name), 0o644))
        except Missing as error:  # of a folder that was to be made
            raise Unusable(f"{name} cannot be made there: {error}") from error
        if there != size:
            raise Again(f"{name} has {there} bytes there and not {size}")

    def _ask(self, act: Callable[[], Result]) -> Result:
        def attempt() -> Result:
            with one_error(self._options):
                return act()

        return persistently(attempt)

    def _call(self, method: str, *arguments: Any, **named: Any) -> Any:
        return call(self._system, method, *arguments, **named)

    def _fresh(self) -> dict[str, bool]:
        return {"refresh": True} if is_object_store(self._system) else {}

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


class HttpFiles(Files):
    """A folder of an HTTP server, or of a CDN in front of a bucket; it is only read.

    Args:
        options: `headers`, by name, such as one with a token.
    """

    is_writable = False

    def __init__(self, address: str, options: Mapping[str, Any]) -> None:
        headers = options.get("headers", {})
        if set(options) - {"headers"} or not isinstance(headers, dict):
            raise Unusable("of HTTP, options has only `headers`, by their names")
        self._address, self._options = address, options
        self._session = requests.Session()
        self._session.headers.update({str(name): str(value) for name, value in headers.items()})
        self._session.headers["Accept-Encoding"] = "identity"

    def read(self, name: str) -> bytes:
        def attempt() -> bytes:
            with self._get(name) as answer:
                content = b""
                for block in answer.iter_content(CHUNK):
                    content += block
                    if len(content) > MAX_BYTES:
                        raise RemoteError(f"{name} has more than {MAX_BYTES} bytes")
                return content

        return persistently(attempt)

    def stream(self, name: str, begin: int, size: int) -> Iterator[tuple[int, bytes]]:
        with self._get(name, {"Range": f"bytes={begin}-"} if begin else {}) as answer:
            match = _RANGE.match(answer.headers.get("Content-Range", ""))
            position = int(match[1]) if answer.status_code == 206 and match else 0
            for block in answer.iter_content(CHUNK):
                yield position, block
                position += len(block)

    def names(self, folder: str) -> list[str]:
        def attempt() -> list[str]:
            try:
                with self._get(f"{folder}/") as answer:
                    base, kind, text = str(answer.url), answer.headers.get("Content-Type", ""), answer.text
            except Missing:
                return []
            if not kind.startswith("text/html"):
                raise RemoteError(f"the server lists no files of {folder}/")
            links = (urljoin(base, link) for link in _LINK.findall(text))
            below = (link.removeprefix(base) for link in links if link.startswith(base))
            return sorted({unquote(link.strip("/")) for link in below if link.strip("/").count("/") == 0 and link})

        return persistently(attempt)

    def size(self, name: str) -> int | None:
        def attempt() -> int | None:
            try:
                with self._get(name) as answer:
                    return int(answer.headers.get("Content-Length", 0))
            except Missing:
                return None

        return persistently(attempt)

    def create(self, name: str, content: bytes) -> None:
        raise Refused("an HTTP address is only read")

    def put(self, path: Path, name: str) -> None:
        raise Refused("an HTTP address is only read")

    @contextmanager
    def _get(self, name: str, headers: Mapping[str, str] | None = None) -> Iterator[requests.Response]:
        with one_error(self._options):
            url = f"{self._address}/{quote(name)}"
            try:
                with closing(
                    self._session.get(url, headers=headers, stream=True, timeout=(CONNECT_S, CALL_S))
                ) as answer:
                    _require_good(answer)
                    yield answer
            except requests.ConnectTimeout:
                raise Unreachable(f"no connection to {self._address} within {CONNECT_S:g} s") from None
            except requests.Timeout:
                raise TooSlow(f"no answer within {CALL_S:g} s") from None
            except (requests.exceptions.InvalidURL, requests.exceptions.InvalidHeader) as error:
                raise Unusable(str(error)) from None
            except requests.RequestException as error:
                kind = Unreachable if is_unconnected(error) else Again
                raise kind(f"the connection failed: {_cause(error)}") from None


def _require_good(answer: requests.Response) -> None:
    reason = f"HTTP {answer.status_code} {answer.reason or ''}".strip()
    match answer.status_code:
        case status if status < 300:
            return
        case 404 | 410:
            raise Missing(reason)
        case 401 | 403:
            raise Refused(reason)
        case status if status >= 500 or status in AGAIN:
            pause = answer.headers.get("Retry-After", "")
            raise Again(reason, float(pause) if pause.isdecimal() else None)
    raise RemoteError(reason)


def _cause(error: BaseException) -> str:
    """The innermost reason, without the address, which requests repeats in every layer."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return str(error) or type(error).__name__


def _create_file(path: Path, content: bytes) -> None:
    """A file of this machine that is whole when it has its name; raises FileExistsError where the name is taken."""
    path.parent.mkdir(parents=True, exist_ok=True)
    making = path.with_name(f".{path.name}.{os.getpid()}.{token_hex(4)}")
    try:
        with making.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        making.chmod(0o644)
        os.link(making, path)
    finally:
        making.unlink(missing_ok=True)
