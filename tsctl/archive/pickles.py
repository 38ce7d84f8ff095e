"""Finds pickles in unpacked files that would run code when they are read, by the picklescan library; nothing is run.

An allowlist decides: imports that a file of plain tensors needs are safe, those that picklescan lists as dangerous are
dangerous, and all others are unknown, because a list of dangers is never complete.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

#: Beyond picklescan's own list: what torch writes for parameters, and TorchScript's own types, which torch resolves
#: among the code in the same file.
_TENSOR_GLOBALS = {
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch", "Size"),
    ("torch", "device"),
    ("_codecs", "encode"),
}
_SUFFIXES = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib", ".dat", ".data", ".npy", ".npz"}
_ZIP, _NUMPY = b"PK\x03\x04", b"\x93NUMPY"


@dataclass(frozen=True)
class UnsafePickle:
    """One unsafe import of a file."""

    file: str
    finding: str  # 'imports module.attribute', or what is wrong with the file
    is_dangerous: bool  # False: unknown


def unsafe_pickles(folder: Path) -> list[UnsafePickle]:
    """Unsafe imports of the pickles below a folder, by file and finding."""
    unsafe_files = [
        unsafe
        for path in sorted(folder.rglob("*"))
        if path.is_file() and may_be_pickle(path)
        for unsafe in _scan(path, path.relative_to(folder).as_posix())
    ]
    return sorted(unsafe_files, key=lambda unsafe: (unsafe.file, unsafe.finding))


def may_be_pickle(path: Path) -> bool:
    """Whether the file's suffix or its first bytes are those of a pickle, a torch file or a numpy file."""
    with path.open("rb") as file:
        head = file.read(8)
    is_binary_pickle = len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5
    return path.suffix.lower() in _SUFFIXES or is_binary_pickle or head.startswith((_ZIP, _NUMPY))


def _scan(path: Path, name: str) -> list[UnsafePickle]:
    from picklescan.scanner import SafetyLevel, scan_bytes

    logging.getLogger("picklescan").setLevel(logging.CRITICAL)  # its findings are reported here, and only here
    suffix = path.suffix.lower()
    with path.open("rb") as file:
        is_zip = file.read(4) == _ZIP
        file.seek(0)
        # a torch file is a zip file, whatever it is called
        result = scan_bytes(file, name, ".zip" if is_zip else suffix if suffix in _SUFFIXES else ".pkl")
    unsafe = [
        UnsafePickle(name, f"imports {entry.module}.{entry.name}", entry.safety is SafetyLevel.Dangerous)
        for entry in result.globals
        if entry.safety is not SafetyLevel.Innocuous
        and (entry.module, entry.name) not in _TENSOR_GLOBALS
        and not entry.module.startswith("__torch__")
    ]
    if result.scan_err:
        unsafe.append(UnsafePickle(name, "cannot be read as a pickle", is_dangerous=False))
    return unsafe
