"""Files of torch, of every kind that it wrote, are looked into and safe; hidden pickles in them are found."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.stock import save_torchscript
from tsctl.archive.pickles import unsafe_pickles


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


class Writer(torch.nn.Module):  # type: ignore[misc]  # mypy does not follow torch
    """Writes a file when it is asked."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "written")
        return x


def test_files_of_torch_are_safe(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.int8)}
    torch.save(tensors, tmp_path / "new.pt")
    torch.save(tensors, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_torchscript(tmp_path / "script.pt")
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),)), tmp_path / "exported.pt2")
    assert unsafe_pickles(tmp_path) == []


def test_code_that_reaches_files_is_found_in_torchscript(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match=r"torch\.jit"):
        torch.jit.script(Writer()).save(tmp_path / "writer.pt")
    [found] = unsafe_pickles(tmp_path)
    place = "writer/code/__torch__/tests/handlers/test_torch_files.py"
    assert found.finding == f"calls save, which writes a file, in {place}"
    assert found.is_dangerous


def test_a_pickle_that_is_added_to_a_torch_file_is_found(tmp_path: Path) -> None:
    save_torchscript(tmp_path / "script.pt")
    for name in ("script/extra/notes.txt", "script/data/sample.pkl"):
        with zipfile.ZipFile(tmp_path / "script.pt") as old, zipfile.ZipFile(tmp_path / "more.pt", "w") as new:
            for info in old.infolist():
                new.writestr(info.filename, old.read(info))
            new.writestr(name, pickle.dumps(Evil()))
        assert [found.finding for found in unsafe_pickles(tmp_path)] == [f"imports posix.system, in {name}"]


def legacy_tar() -> bytes:
    """A file as torch 0.1 wrote it: tensors lie between the pickles of two of its members."""
    storage = b"\x80\x02K\x01X\x03\x00\x00\x00cpuctorch\nFloatStorage\n\x87."
    numbers = struct.pack("<q4f", 4, 1, 2, 3, 4)
    storages = pickle.dumps(1, 2) + storage + numbers + pickle.dumps([], 2)
    tensor = b"\x80\x02K\x05K\x01ctorch\nFloatTensor\n\x87." + struct.pack("<iiqqqqq", 2, 0, 2, 2, 2, 1, 0)
    members = {"storages": storages, "tensors": pickle.dumps(1, 2) + tensor, "pickle": pickle.dumps({}, 2)}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_a_tar_file_of_torch_is_read_past_its_tensors(tmp_path: Path) -> None:
    (tmp_path / "old.pth").write_bytes(legacy_tar())
    assert unsafe_pickles(tmp_path) == []
    assert torch.load(tmp_path / "old.pth", weights_only=False) == {}, "torch reads it too"
    (tmp_path / "old.pth").write_bytes(legacy_tar().replace(b"ctorch\nFloatTensor\n", b"cposix\nFloatTensor\n"))
    [found] = unsafe_pickles(tmp_path)
    assert found.finding == "imports posix.FloatTensor, in tensors"
