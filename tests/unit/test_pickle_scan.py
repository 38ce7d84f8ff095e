"""Pickles are found in whatever holds them, read as their loaders would read them, and nothing of them runs."""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import os
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest

from tsctl.archive import pickle_containers
from tsctl.archive.pickles import unsafe_pickles
from tsctl.archive.torchscript import judge_code


class Evil:
    """Makes a file when it is read."""

    def __init__(self, proof: str) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.proof}",)


class Plain:
    def __init__(self) -> None:
        self.weights = np.arange(12.0).reshape(3, 4)


def found(folder: Path) -> list[tuple[str, str]]:
    return [(unsafe.file, unsafe.finding) for unsafe in unsafe_pickles(folder)]


def in_zip(name: str, content: bytes, how: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def in_tar(name: str, content: bytes, mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]  # the mode is a variable
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


CONTAINERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "zlib": ("m.joblib", zlib.compress),
    "gzip": ("m.joblib", gzip.compress),
    "bz2": ("m.joblib", bz2.compress),
    "xz": ("m.joblib", lzma.compress),
    "lzma": ("m.joblib", lambda content: lzma.compress(content, lzma.FORMAT_ALONE)),
    "gzip under an odd name": ("picture.png", gzip.compress),
    "zip": ("m.bin", lambda content: in_zip("deep/inner.txt", content)),
    "zip in zip": ("m.zip", lambda content: in_zip("a.zip", in_zip("b.zip", in_zip("c.pkl", content)))),
    "zip in gzip": ("m.gz", lambda content: gzip.compress(in_zip("a", content))),
    "tar": ("m.pth", lambda content: in_tar("data", content)),
    "tar.gz": ("m.tgz", lambda content: in_tar("data", content, "w:gz")),
    "gzip in gzip": ("m.pkl", lambda content: gzip.compress(gzip.compress(content))),
    "zip in tar in bz2": ("m.data", lambda content: bz2.compress(in_tar("a", in_zip("b", content)))),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_pickle_is_found_in_every_container(tmp_path: Path, kind: str) -> None:
    name, pack = CONTAINERS[kind]
    (tmp_path / name).write_bytes(pack(pickle.dumps(Evil(str(tmp_path / "proof")))))
    [(file, finding)] = found(tmp_path)
    assert file == name
    assert finding.startswith("imports posix.system")
    (tmp_path / name).write_bytes(pack(pickle.dumps({"weights": [1.0, 2.0]})))
    assert found(tmp_path) == [], "plain values are safe there too"
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("compress", [0, ("zlib", 3), ("gzip", 3), ("bz2", 3), ("lzma", 3), ("xz", 3)])
def test_a_file_of_joblib_is_read_past_its_arrays(tmp_path: Path, compress: Any) -> None:
    arrays = [
        np.ones((3, 5), order="F"),
        np.array(1.5),
        np.array(["x", "long"]),
        np.array([(1, "a")], dtype=[("a", "i4"), ("b", "U3")]),
        np.array(["2020-01-01"], dtype="M8[D]"),
        np.empty((0, 4)),
    ]
    joblib.dump([*arrays, Plain(), Evil("proof")], tmp_path / "m.joblib", compress=compress)
    findings = [finding for _, finding in found(tmp_path)]
    assert findings[0] == "imports posix.system"
    assert f"imports {__name__}.Plain" in findings
    assert not [finding for finding in findings if "cannot" in finding]


def test_a_pickle_inside_an_array_of_objects_is_found(tmp_path: Path) -> None:
    values = np.array([None, Evil("proof")], dtype=object)
    joblib.dump([np.ones(3), values], tmp_path / "m.joblib")
    np.save(tmp_path / "m.npy", values, allow_pickle=True)
    np.savez_compressed(tmp_path / "m.npz", numbers=np.ones(3), values=values)
    np.save(tmp_path / "numbers.npy", np.ones(3))
    dangerous = {(unsafe.file, unsafe.finding) for unsafe in unsafe_pickles(tmp_path) if unsafe.is_dangerous}
    assert dangerous == {
        ("m.joblib", "imports posix.system"),
        ("m.npy", "imports posix.system"),
        ("m.npz", "imports posix.system, in values.npy"),
    }


def test_what_joblib_takes_for_an_array_is_read_as_pickle_reads_it_too(tmp_path: Path) -> None:
    joblib.dump(np.zeros(4096, dtype="u1"), tmp_path / "m.pkl")
    content = bytearray((tmp_path / "m.pkl").read_bytes())
    hidden = pickle.dumps(Evil("proof"), 2)[2:]
    begin = content.index(bytes(2048))
    content[begin - 40 : begin - 40 + len(hidden)] = hidden  # where pickle goes on, and joblib reads numbers
    marker = bytes(content).rindex(b"b", 0, begin - 40)
    content[marker + 1 : begin - 40] = b"N0" * ((begin - 40 - marker) // 2) + b"N" * ((begin - 41 - marker) % 2)
    (tmp_path / "m.pkl").write_bytes(content)
    assert "imports posix.system" in {finding for _, finding in found(tmp_path)}


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (b"(cposix\nsystem\nS'true'\no.", "imports posix.system"),
        (b"(S'true'\niposix\nsystem\n.", "imports posix.system"),
        (b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x940h\x00h\x01\x93\x8c\x04true\x85R.", "imports posix.system"),
        (b"\x80\x04\x8c\x05posixq\x07\x8c\x06system\x93N0.", "imports posix.system"),
        (pickle.dumps(1) + pickle.dumps(Evil("proof")), "imports posix.system"),
        (pickle.dumps(1) + b"and more", "cannot be read as a pickle"),
        (pickle.dumps([1] * 9)[:-3], "cannot be read as a pickle"),
        (b"\x80\x02\x82\x01.", "cannot be read as a pickle (it uses the registered extension 1)"),
        (b"\x80\x04K\x01K\x02\x93.", "cannot be read as a pickle"),
        (b"ZF0x10             ", "is a file of joblib before 0.10, into which nobody looks"),
        (b"\x28\xb5\x2f\xfd" + bytes(9), "is a file compressed with zstd, into which nobody looks"),
        (gzip.compress(b"N.", mtime=0)[:-9], "cannot be read"),
    ],
)
def test_ways_to_hide_an_import_or_an_end(tmp_path: Path, content: bytes, finding: str) -> None:
    (tmp_path / "m.pkl").write_bytes(content)
    assert any(each.startswith(finding) for _, each in found(tmp_path))


def test_files_that_only_look_like_containers_pass(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_bytes(b"x^2 is the square of x")
    (tmp_path / "model.onnx.data").write_bytes(np.arange(50.0).tobytes())
    (tmp_path / "iris.data").write_text("Iris-setosa,5.1\n")
    (tmp_path / "vocabulary.txt.gz").write_bytes(gzip.compress(b"the\na\n"))
    assert found(tmp_path) == []


def test_bombs_end_at_the_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_containers, "SMALL_BYTES", 1 << 20)
    monkeypatch.setattr(pickle_containers, "MAX_RATIO", 10)
    zeros = bytes(8 << 20)
    (tmp_path / "a.joblib").write_bytes(zlib.compress(b"\x80\x04B" + len(zeros).to_bytes(4, "little") + zeros + b"."))
    (tmp_path / "b.zip").write_bytes(in_zip("x.pkl", b"\x80\x04" + b"N0" * (1 << 22) + b"N."))
    nested = pickle.dumps(1)
    for _ in range(9):
        nested = gzip.compress(nested)
    (tmp_path / "c.pkl").write_bytes(nested)
    assert found(tmp_path) == [
        ("a.joblib", "unpacks to more than is looked into"),
        ("b.zip", "unpacks to more than is looked into"),
        ("c.pkl", "is nested more than 5 deep"),
    ]


def test_a_scan_of_one_file_ends_after_its_time() -> None:
    budget = pickle_containers.Budget(1, seconds=-1)
    with pytest.raises(pickle_containers.TooLarge, match="takes longer to look into than -1 s"):
        budget.take(1)


def test_what_cannot_be_unpacked_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", missing)
    (tmp_path / "m.joblib").write_bytes(b"\x04\x22\x4d\x18" + bytes(20))
    assert found(tmp_path) == [("m.joblib", "is compressed with lz4, and the package lz4.frame is not installed")]


def test_native_code_inside_a_container_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "m.pt2").write_bytes(in_zip("model/data/aotinductor/model.so", b"\x7fELF" + bytes(60)))
    assert found(tmp_path) == [("m.pt2", "holds native code, in model/data/aotinductor/model.so")]


@pytest.mark.parametrize(
    ("line", "finding"),
    [
        ("torch.save(x, 'file')", ("calls save, which writes a file", True)),
        ("(x).save('file')", ("calls save, which writes a file", True)),
        ("getattr(x, 'save')('file')", ("calls save, which writes a file", True)),
        ("ops.aten.from_file('/etc/passwd')", ("calls from_file, which reads or writes a file", True)),
        ("ops.prim.PythonOp(x)", ("calls PythonOp, which calls Python", True)),
        ("rpc_async('worker', x)", ("calls rpc_async, which calls other machines", True)),
        ("ops.mine.launch(x)", ("calls mine.launch of another library", False)),
        ("y : __torch__.torch.classes.dist_c10d.TCPStore = x", ("holds objects of the library dist_c10d", False)),
        ("x = (", ("has code that cannot be read", False)),
    ],
)
def test_code_of_torchscript_that_does_more_than_compute(line: str, finding: tuple[str, bool]) -> None:
    assert finding in list(judge_code(f"def forward(self, x: Tensor) -> Tensor:\n  {line}\n  return x\n".encode()))


def test_code_of_torchscript_that_computes_is_safe() -> None:
    code = """
class Net(Module):
  __parameters__ = ["weight", ]
  training : bool
  packed : __torch__.torch.classes.quantized.LinearPackedParamsBase
  def forward(self: __torch__.Net, x: Tensor) -> Tensor:
    y = torch.add(x, ops.quantized.linear_dynamic(x, self.packed), alpha=1)
    if torch.__isnot__(y, None):
      ops.prim.RaiseException("no", "builtins.RuntimeError")
    return (getattr(self, "0")).forward(y, )
"""
    assert list(judge_code(code.encode())) == []
