"""Finds pickles that would run code when they are read, in files and in the containers inside them.

An allowlist decides: imports that a file of tensors or of TorchScript needs are safe, those that picklescan lists as
dangerous are dangerous, and all others are unknown, because a list of dangers is never complete. What cannot be looked
into is unknown too, so nobody reads it unless its very bytes are trusted (see trust.py).

The scan itself runs in the sandbox, so that no file can hold it up or fill the memory.
"""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from tsctl.archive.canonical import NotCanonical, require_canonical
from tsctl.archive.pickle_containers import (
    CLOSED,
    HEAD_BYTES,
    MAX_DEPTH,
    MAX_INNER_ZIP_BYTES,
    NUMPY,
    ZIP,
    Budget,
    Counted,
    Damaged,
    TooLarge,
    compression,
    decompressed,
    is_tar,
    numpy_holds_objects,
)
from tsctl.archive.pickle_stream import Imports, Unreadable, read_storages, read_stream, read_tensors
from tsctl.archive.torchscript import MAX_CODE_BYTES, is_known_class, judge_code

#: Beyond picklescan's own list, `module.name`: what torch.load(weights_only=True) allows for tensors, and the operators
#: of TorchScript's format, which return their argument. TorchScript's own types are found among the code in its file.
_SAFE = re.compile(
    r"torch\._utils\._rebuild_(tensor|tensor_v3|parameter|qtensor|sparse_tensor|nested_tensor|meta_tensor_no_storage)"
    r"|torch\.(Double|Float|Half|Long|Int|Short|Char|Byte|Bool|BFloat16)Tensor"
    r"|torch\.(Size|device|storage\.UntypedStorage|serialization\._get_layout)"
    r"|torch\.(q?u?int\d+(x\d)?|float\d+\w*|bfloat16|complex\d+|bool|per_(tensor|channel)_(affine|symmetric))"
    r"|torch\.jit\._pickle\.(build_(int|tensor|double|bool)list|build_tensor_from_id|restore_type_tag)"
    r"|__torch__\..*"
    r"|(builtins|__builtin__)\.complex|_codecs\.encode"
)
#: Suffixes of files that are pickles or containers of them, and of files that may be.
_PICKLES = {".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib"}
_PERHAPS = {".bin", ".dat", ".data", ".npy", ".npz"}
#: Members of a torch file, or of one of torch.export, that its readers take as they are: numbers, and no pickles.
_RAW = re.compile(r"(data|constants|tensors)/\d+|data/weights/weight_\d+|data/constants/tensor_\d+")
_NATIVE = (b"\x7fELF", b"MZ\x90", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")
_TORCH_TAR = {"pickle", "storages", "tensors"}
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
    """Whether the file's suffix or its first bytes are those of a pickle, or of a container that may hold one."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    return is_candidate(path.name, head)


def is_candidate(name: str, head: bytes) -> bool:
    """As `may_be_pickle`, by the name and the first HEAD_BYTES of a file."""
    suffix = PurePosixPath(name).suffix.lower()
    is_container = head.startswith((ZIP, NUMPY, *CLOSED)) or compression(head) is not None or is_tar(head)
    return suffix in _PICKLES | _PERHAPS or is_container or _is_binary_pickle(head)


def _is_binary_pickle(head: bytes) -> bool:
    return len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5


def _scan(path: Path, name: str) -> list[UnsafePickle]:
    logging.getLogger("picklescan").setLevel(logging.CRITICAL)  # its findings are reported here, and only here
    budget = Budget(path.stat().st_size)
    found = {}
    try:
        with path.open("rb") as file:

            def reopen() -> Counted:
                file.seek(0)
                return Counted(file, budget, is_unpacked=False)

            for finding, is_dangerous in _FileScan(budget).judge(_Part(path.name, "", reopen, file)):
                found[finding] = UnsafePickle(name, finding, is_dangerous)
    except TooLarge as error:
        found[""] = UnsafePickle(name, str(error), is_dangerous=False)
    return list(found.values())


@dataclass(frozen=True)
class _Part:
    """A file, or a part of one at whatever depth."""

    name: str
    where: str  # ', in NAME' for a part; empty for the file itself
    reopen: Callable[[], Any]  # its content from the begin
    file: BinaryIO | None = None  # that holds it and nothing else; None: it can only be read from its begin
    depth: int = 0


#: What is wrong, and whether it is dangerous.
_Findings = Iterator[tuple[str, bool]]


class _FileScan:
    """Judges one file with all of its parts."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    def judge(self, part: _Part) -> _Findings:
        """What is unsafe in the part and those inside it."""
        if part.depth > MAX_DEPTH:
            yield f"is nested more than {MAX_DEPTH} deep{part.where}", False
            return
        try:
            head = _head(part.reopen())
            if closed := next((kind for start, kind in CLOSED.items() if head.startswith(start)), None):
                yield f"is {closed}, into which nobody looks{part.where}", False
            elif head.startswith(ZIP):
                yield from self._zip(part)
            elif is_tar(head):
                yield from self._tar(part)
            elif kind := compression(head):
                yield from self._compressed(part, kind)
            elif head.startswith(NUMPY):
                yield from self._numpy(part)
            elif _is_binary_pickle(head) or PurePosixPath(part.name).suffix.lower() in _PICKLES | _PERHAPS:
                yield from self._pickle(part, _is_binary_pickle(head))
            elif part.depth and head.startswith(_NATIVE):
                yield f"holds native code{part.where}", False
        except Damaged as error:
            yield f"cannot be read ({error}){part.where}", False

    def _compressed(self, part: _Part, kind: str) -> _Findings:
        def reopen() -> Counted:
            return Counted(decompressed(kind, part.reopen()), self._budget)

        suffix = PurePosixPath(part.name).suffix.lower()
        try:
            _head(reopen())
        except ModuleNotFoundError as error:
            yield f"is compressed with {kind}, and the package {error.name} is not installed{part.where}", False
            return
        except Damaged:
            if suffix in _PICKLES or kind not in {"zlib", "xz"}:  # whose first bytes other files may have
                raise
            return
        name = part.name if suffix in _PICKLES | _PERHAPS else PurePosixPath(part.name).stem
        yield from self.judge(_Part(name, part.where, reopen, depth=part.depth + 1))

    def _zip(self, part: _Part) -> _Findings:
        file = self._seekable(part)
        if file is None:
            yield f"holds a zip file of more than {MAX_INNER_ZIP_BYTES >> 20} MiB{part.where}", False
            return
        try:
            require_canonical(file, has_descriptors=True)
        except NotCanonical as error:
            yield f"is a zip file that readers read in different ways: {error}{part.where}", True
            return
        with _opened_zip(file) as archive:
            names = set(archive.namelist())
            roots = {name.partition("/")[0] for name in names}
            [root] = roots if len(roots) == 1 else [""]
            is_torch = bool(root) and bool({f"{root}/data.pkl", f"{root}/archive_format"} & names)
            for info in archive.infolist():
                inside = info.filename.removeprefix(f"{root}/") if is_torch else info.filename
                if is_torch and _RAW.fullmatch(inside):
                    continue

                def reopen(info: zipfile.ZipInfo = info) -> Counted:
                    return Counted(_opened_member(archive, info), self._budget)

                if is_torch and inside.startswith("code/") and inside.endswith(".py"):
                    yield from _code(info, reopen)
                else:
                    yield from self.judge(_Part(info.filename, _inside(info.filename), reopen, depth=part.depth + 1))

    def _tar(self, part: _Part) -> _Findings:
        file = self._seekable(part)
        if file is None:
            yield f"holds a tar file of more than {MAX_INNER_ZIP_BYTES >> 20} MiB{part.where}", False
            return
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                members = [member for member in archive if member.isfile()]
                is_torch = {member.name for member in members} >= _TORCH_TAR
                for member in members:

                    def reopen(member: tarfile.TarInfo = member) -> Counted:
                        return Counted(archive.extractfile(member), self._budget)

                    where = _inside(member.name)
                    if is_torch and member.name in _TORCH_TAR:
                        yield from self._torch_tar(member.name, where, reopen)
                    else:
                        yield from self.judge(_Part(member.name, where, reopen, depth=part.depth + 1))
        except tarfile.TarError as error:
            raise Damaged(str(error)) from None

    def _torch_tar(self, name: str, where: str, reopen: Callable[[], Any]) -> _Findings:
        """A member of a file that torch 0.1 wrote; its other two members have tensors between their pickles."""
        readers = {"storages": read_storages, "tensors": read_tensors}
        if name not in readers:
            yield from self._pickle(_Part(name, where, reopen), is_pickle=True)
            return
        imports = Imports()
        try:
            readers[name](io.BufferedReader(reopen()), imports)
        except Unreadable as error:
            yield f"cannot be read as a pickle ({error}){where}", False
        yield from _judged(imports, where)

    def _numpy(self, part: _Part) -> _Findings:
        if not numpy_holds_objects(io.BufferedReader(part.reopen())):
            return

        def reopen() -> Any:
            stream = io.BufferedReader(part.reopen())
            numpy_holds_objects(stream)
            return stream

        yield from self._pickle(_Part(part.name, part.where, reopen), is_pickle=True)

    def _pickle(self, part: _Part, is_pickle: bool) -> _Findings:
        imports = Imports()
        try:
            read_stream(part.reopen, imports)
        except Unreadable as error:
            # a loader of pickles stops at the first byte that is none, and has imported nothing
            if is_pickle or imports.names or PurePosixPath(part.name).suffix.lower() in _PICKLES:
                yield f"cannot be read as a pickle ({error}){part.where}", False
        yield from _judged(imports, part.where)

    def _seekable(self, part: _Part) -> Any:
        """The part as a file that can be read from its end; None where it is too large for that."""
        if part.file is not None:
            part.file.seek(0)
            return part.file
        content = io.BytesIO()
        stream = part.reopen()
        while block := stream.read(1 << 20):
            content.write(block)
            if content.tell() > MAX_INNER_ZIP_BYTES:
                return None
        content.seek(0)
        return content


def _head(stream: Any) -> bytes:
    """The first HEAD_BYTES, or all where there are fewer."""
    head = b""
    while len(head) < HEAD_BYTES and (block := stream.read(HEAD_BYTES - len(head))):
        head += block
    return head


def _inside(name: str) -> str:
    return f", in {name}"


def _opened_zip(file: Any) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise Damaged(str(error)) from None


def _opened_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Any:
    try:
        return archive.open(info)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError) as error:
        raise Damaged(str(error)) from None


def _code(info: zipfile.ZipInfo, reopen: Callable[[], Any]) -> _Findings:
    where = _inside(info.filename)
    if info.file_size > MAX_CODE_BYTES:
        yield f"has code of {info.file_size} bytes; at most {MAX_CODE_BYTES} are read{where}", False
        return
    for finding, is_dangerous in judge_code(io.BufferedReader(reopen()).read()):
        yield f"{finding}{where}", is_dangerous


def _judged(imports: Imports, where: str) -> _Findings:
    """The imports that no file of tensors needs."""
    from picklescan.scanner import SafetyLevel

    for module, name in sorted(imports.names):
        safety = _safety(module, name)
        is_safe = _SAFE.fullmatch(f"{module}.{name}") and is_known_class(module)
        if safety is not SafetyLevel.Innocuous and not is_safe:
            yield f"imports {module}.{name}{where}", safety is SafetyLevel.Dangerous


def _safety(module: str, name: str) -> Any:
    """What picklescan says of one import."""
    from picklescan.scanner import SafetyLevel, scan_pickle_bytes

    if not (module.isprintable() and name.isprintable()):
        return SafetyLevel.Dangerous
    text = b"".join(b"X" + len(part.encode()).to_bytes(4, "little") + part.encode() for part in (module, name))
    [found] = scan_pickle_bytes(io.BytesIO(b"\x80\x04" + text + b"\x93."), "").globals
    return found.safety


def main() -> None:
    """Print the unsafe imports of the pickles below the folder that the first argument names, as JSON."""
    print(json.dumps([asdict(unsafe) for unsafe in unsafe_pickles(Path(sys.argv[1]))[:MAX_FINDINGS]]))  # noqa: T201
