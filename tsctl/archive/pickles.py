"""Finds pickles that would run code when they are read, with picklescan.

An allowlist decides: imports that a file of tensors or of TorchScript needs are safe, those that picklescan lists as
dangerous are dangerous, and all others are unknown, because a list of dangers is never complete.

The scan itself runs in the sandbox, so that no file can hold it up or fill the memory.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from tsctl.archive.canonical import NotCanonical, require_canonical

#: Beyond picklescan's own list, `module.name`: what torch.load(weights_only=True) allows for tensors, and the operators
#: of TorchScript's format, which return their argument. TorchScript's own types are found among the code in its file.
_SAFE = re.compile(
    r"torch\._utils\._rebuild_(tensor|tensor_v3|parameter|qtensor|sparse_tensor|nested_tensor|meta_tensor_no_storage)"
    r"|torch\.(Size|device|storage\.UntypedStorage|serialization\._get_layout)"
    r"|torch\.(q?u?int\d+(x\d)?|float\d+\w*|bfloat16|complex\d+|bool|per_(tensor|channel)_(affine|symmetric))"
    r"|torch\.jit\._pickle\.(build_(int|tensor|double|bool)list|build_tensor_from_id|restore_type_tag)"
    r"|__torch__\..*"
    r"|(builtins|__builtin__)\.complex|_codecs\.encode"
)
_SUFFIXES = {".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib", ".dat", ".data", ".npy", ".npz"}
_ZIP, _NUMPY = b"PK\x03\x04", b"\x93NUMPY"
_SEVEN_ZIP = b"7z\xbc\xaf\x27\x1c"
MAX_FINDINGS = 100


@dataclass(frozen=True)
class UnsafePickle:
    """One unsafe import of a file."""

    file: str
    finding: str  # 'imports module.attribute', or what is wrong with the file
    is_dangerous: bool  # False: unknown


def unsafe_pickles(folder: Path) -> list[UnsafePickle]:
    """Unsafe imports of the pickles below a folder, dangerous ones first, by file and finding."""
    unsafe_files = [
        unsafe
        for path in sorted(folder.rglob("*"))
        if path.is_file() and may_be_pickle(path)
        for unsafe in _scan(path, path.relative_to(folder).as_posix())
    ]
    return sorted(unsafe_files, key=lambda unsafe: (not unsafe.is_dangerous, unsafe.file, unsafe.finding))


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
        head = file.read(6)
        if head == _SEVEN_ZIP:
            return [UnsafePickle(name, "is a 7z file, into which picklescan does not look", is_dangerous=False)]
        is_zip = head.startswith(_ZIP)
        if is_zip:
            try:
                require_canonical(file, has_descriptors=True)
            except NotCanonical as error:
                return [UnsafePickle(name, f"is a zip file that readers read in different ways: {error}", True)]
        file.seek(0)
        # a torch file is a zip file, whatever it is called
        result = scan_bytes(file, name, ".zip" if is_zip else suffix if suffix in _SUFFIXES else ".pkl")
    unsafe = [
        UnsafePickle(name, f"imports {entry.module}.{entry.name}", entry.safety is SafetyLevel.Dangerous)
        for entry in result.globals
        if entry.safety is not SafetyLevel.Innocuous and not _SAFE.fullmatch(f"{entry.module}.{entry.name}")
    ]
    if result.scan_err:
        unsafe.append(UnsafePickle(name, "cannot be read as a pickle", is_dangerous=False))
    return unsafe


def main() -> None:
    """Print the unsafe imports of the pickles below the folder that the first argument names, as JSON."""
    print(json.dumps([asdict(unsafe) for unsafe in unsafe_pickles(Path(sys.argv[1]))[:MAX_FINDINGS]]))  # noqa: T201
