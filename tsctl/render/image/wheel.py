"""The wheel of the tsctl that runs, made from its own files: the same files give the same bytes.

An installation from a checkout has no wheel, and one from a registry has lost it, so it is packed anew. What an
installer writes beside the files (RECORD, the program in bin) is made anew as well.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import tsctl
from tsctl.archive.sources import is_leaving

_METADATA = ("METADATA", "entry_points.txt")
_WHEEL = "Wheel-Version: 1.0\nGenerator: tsctl\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_TIME = (1980, 1, 1, 0, 0, 0)
_MODE = 0o100644 << 16


def wheel_name() -> str:
    """The file name of the wheel."""
    return f"tsctl-{distribution('tsctl').version}-py3-none-any.whl"


def write_wheel(folder: Path) -> tuple[Path, str]:
    """Write the wheel into the folder; the file, and its SHA-256 in hex."""
    contents = dict(sorted(_contents()))
    info = f"tsctl-{distribution('tsctl').version}.dist-info"
    lines = [f"{name},sha256={_digest(content)},{len(content)}" for name, content in contents.items()]
    contents[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,", ""]).encode()
    path = folder / wheel_name()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(name, _TIME)
            entry.external_attr = _MODE
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def _contents() -> Iterator[tuple[str, bytes]]:
    own, installed = Path(tsctl.__file__).parent, distribution("tsctl")
    for path in _files(own):
        if path.parts[0] != "bundled":
            yield f"tsctl/{path.as_posix()}", (own / path).read_bytes()
    for path in _files(tsctl.CORE):
        yield f"tsctl/bundled/handlers/{path.as_posix()}", (tsctl.CORE / path).read_bytes()
    info = f"tsctl-{installed.version}.dist-info"
    for name in _METADATA:
        yield f"{info}/{name}", (installed.read_text(name) or "").encode()
    yield f"{info}/WHEEL", _WHEEL.encode()


def _files(folder: Path) -> Iterator[Path]:
    """The files below a folder, relative to it, but for what tools leave behind."""
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and not any(is_leaving(part) for part in inside.parts):
            yield inside


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
