"""Opens the file system of an address that fsspec knows, and says in one way why a place cannot be used.

Each file system has errors of its own; here they become six kinds, by what a caller can do about them. Invariant: no
value of an option that may be a secret is in an error.
"""

from __future__ import annotations

import errno
import importlib
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from tsctl.addresses import without_secrets

#: Have no folders, only names, which appear whole; to make a folder there could make a bucket that nobody wants.
OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss"}
#: Ends the name of a file that is not whole yet; no reader takes it.
PART = ".part"
#: Seconds for one call to a file system that works over a network, and for one attempt to connect to it.
CALL_S, CONNECT_S = 30.0, 4.0
#: Attempts of the client of S3 within one call: by itself it makes five, which takes 9 s where a port is closed.
_S3_ATTEMPTS = 2
#: HTTP statuses after which a request is worth sending again; 5xx are as well.
AGAIN = (408, 425, 429)
#: Refusals of a kernel that do not pass by themselves.
_LASTING = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ENAMETOOLONG,
    errno.ENOSYS, errno.EPERM,
)  # fmt: skip
#: Errors of botocore, aiohttp, requests and urllib3 before there is a connection, by name: none is imported for it.
_NOT_CONNECTED = {
    *("EndpointConnectionError", "ConnectTimeoutError", "ClientConnectorError", "ConnectTimeout"),
    "NewConnectionError",
}
#: Options that hold no secret.
_OPEN = re.compile(r"(url|region|region_name|project|location|protocol)$", re.IGNORECASE)


def is_open(option: str) -> bool:
    """Whether an option of this name holds no secret."""
    return _OPEN.search(option) is not None


class RemoteError(Exception):
    """A place that cannot be used; the message is the reason, on one line."""


class Missing(RemoteError):
    """There is no such file."""


class Exists(RemoteError):
    """There is such a file already, and it was to be made."""


class Refused(RemoteError):
    """The server knows the caller, and lets it not do that, or does not know the caller."""


class Unusable(RemoteError):
    """The address, an option or a package is wrong or missing, so that nothing is asked at all."""


class Again(RemoteError):
    """It failed for a reason that may pass: a busy server, a connection that was cut, a call that took too long.

    Args:
        pause_s: seconds for which the server asks; None: it does not say.
    """

    def __init__(self, reason: str, pause_s: float | None = None) -> None:
        super().__init__(reason)
        self.pause_s = pause_s


class Unreachable(Again):
    """There is no connection: the port is closed, nobody knows the name, or nothing answers within CONNECT_S."""


class TooSlow(Again):
    """A call was not answered in time."""


def is_remote(address: str) -> bool:
    """Whether the address is one for fsspec, and no path."""
    return len(urlsplit(address).scheme) > 1


def absolute(address: str, base: Path) -> str:
    """The address; a path may be relative to `base`."""
    if is_remote(address):
        return address.removeprefix("file://")
    return str((base / address).resolve())


def protocols(system: Any) -> tuple[str, ...]:
    """The names of the file system."""
    protocol = system.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def is_local(system: Any) -> bool:
    """Whether the file system is this machine's."""
    return "file" in protocols(system)


def is_object_store(system: Any) -> bool:
    """Whether the file system has no folders, only names."""
    return bool(OBJECT_STORES.intersection(protocols(system)))


def open_system(address: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """The file system of the address, and the path of the place in it.

    Raises:
        Unusable: fsspec or the file system's package is not installed, or nobody knows the scheme or an option.
    """
    try:
        fsspec = importlib.import_module("fsspec")
    except ImportError:
        raise Unusable("fsspec is not installed: pip install 'tsctl[store]'") from None
    try:
        system, root = fsspec.core.url_to_fs(address, **_bounded(address, options))
    except (ImportError, ValueError, TypeError) as error:
        raise Unusable(reason_of(error)) from error
    system.invalidate_cache()  # others write there too
    return system, str(root).rstrip("/")


def _bounded(address: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, with bounds for connections of S3 where they have none."""
    if urlsplit(address).scheme not in ("s3", "s3a"):
        return dict(options)
    bounds = {"connect_timeout": CONNECT_S, "retries": {"mode": "standard", "total_max_attempts": _S3_ATTEMPTS}}
    return {**options, "config_kwargs": {**bounds, **options.get("config_kwargs", {})}}


def call(system: Any, method: str, *arguments: Any, seconds: float = CALL_S, **named: Any) -> Any:
    """Call a method of the file system, for so many seconds at most where it works over a network."""
    limit = {"timeout": seconds} if getattr(system, "async_impl", False) else {}
    return getattr(system, method)(*arguments, **named, **limit)


def put_whole(system: Any, path: Path, target: str, mode: int) -> int:
    """Upload a file, which has its name there only when it is whole; returns the bytes that are there then.

    Args:
        mode: of the file, and of its folder with the right to enter, where the place is on this machine.
    """
    size = path.stat().st_size
    if is_object_store(system):
        call(system, "put_file", str(path), target, seconds=CALL_S + size / (64 << 10))
        system.invalidate_cache()
        return int(call(system, "size", target))
    folder = str(PurePosixPath(target).parent)
    system.makedirs(folder, exist_ok=True)
    part = f"{target}{PART}"
    try:
        system.put_file(str(path), part)
    except OSError:  # such as a disk that is full: what is there of it would keep it so
        if is_local(system):
            Path(part).unlink(missing_ok=True)
        raise
    if is_local(system):
        Path(folder).chmod(mode | (mode & 0o444) >> 2)
        Path(part).chmod(mode)
        Path(part).replace(target)
    else:
        system.mv(part, target)
        system.invalidate_cache()
    return int(system.size(target))


def secrets_of(options: Any, name: str = "") -> Iterator[str]:
    """The texts in options that may be secrets."""
    if isinstance(options, Mapping):
        for key, value in options.items():
            yield from secrets_of(value, str(key))
    elif isinstance(options, list | tuple):
        for value in options:
            yield from secrets_of(value, name)
    elif isinstance(options, str) and len(options) > 2 and not _OPEN.search(name):
        yield options


def hidden(text: str, options: Mapping[str, Any]) -> str:
    """The text without users of addresses, signatures and values of the options."""
    for secret in sorted(secrets_of(options), key=len, reverse=True):
        text = text.replace(secret, "***")
    return without_secrets(text)


@contextmanager
def one_error(options: Mapping[str, Any]) -> Iterator[None]:
    """Raises what a file system raises in the block as a RemoteError, whose message has none of the options' secrets.

    An OSError of this machine, such as a disk that is full, must not come out of the block.
    """
    try:
        yield
    except RemoteError as error:
        error.args = (hidden(str(error), options), *error.args[1:])
        raise
    except Exception as error:
        kind = kind_of(error)
        reason = hidden(reason_of(error), options)
        raise (Again(reason, _pause(error)) if kind is Again else kind(reason)) from error


def kind_of(error: BaseException) -> type[RemoteError]:
    """What a caller can do about the error of a file system."""
    if _code(error) == "NoSuchBucket":
        return Unusable
    if isinstance(error, FileExistsError):
        return Exists
    status = _status(error)
    if isinstance(error, FileNotFoundError | NotADirectoryError) or status in (404, 410):
        return Missing
    if isinstance(error, PermissionError) or status in (401, 403):
        return Refused
    name = type(error).__name__
    if name == "FSTimeoutError":
        return TooSlow
    if status is not None:
        return Again if status >= 500 or status in AGAIN else RemoteError
    if "Credentials" in name:
        return Refused
    if is_unconnected(error):
        return Unreachable
    if isinstance(error, OSError) and error.errno in _LASTING:
        return RemoteError
    if isinstance(error, OSError | EOFError) or "Timeout" in name or "Connection" in name or "Payload" in name:
        return Again
    return Unusable if isinstance(error, ImportError | ValueError | TypeError) else RemoteError


def is_unconnected(error: BaseException | None) -> bool:
    """Whether the error, or one that it wraps, says that no connection was made."""
    while error is not None:
        names = {kind.__name__ for kind in type(error).__mro__}
        if isinstance(error, ConnectionRefusedError | socket.gaierror) or not _NOT_CONNECTED.isdisjoint(names):
            return True
        error = error.__cause__ or error.__context__
    return False


def _status(error: BaseException) -> int | None:
    """The HTTP status in the error, or in its cause."""
    for each in (error, error.__cause__):
        response = getattr(each, "response", None)
        if isinstance(response, Mapping):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:
            status = getattr(each, "status", None) or getattr(each, "code", None)
        try:
            number = int(status)
        except (TypeError, ValueError):
            continue
        if 400 <= number < 600:
            return number
    return None


def _code(error: BaseException) -> str:
    """The code that S3 gives the error."""
    for each in (error, error.__cause__):
        response = getattr(each, "response", None)
        if isinstance(response, Mapping):
            return str(response.get("Error", {}).get("Code", ""))
    return ""


def _pause(error: BaseException) -> float | None:
    headers = getattr(error, "headers", None)
    try:
        return float(headers["Retry-After"]) if headers else None
    except (KeyError, TypeError, ValueError):
        return None


def reason_of(error: BaseException) -> str:
    """What the error says, on one line, without secrets of addresses."""
    if type(error).__name__ == "FSTimeoutError":
        return f"no answer within {CALL_S:g} s"
    return without_secrets(" ".join(str(error).split())) or type(error).__name__
