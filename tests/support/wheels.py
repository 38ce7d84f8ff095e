"""Tiny Python packages as wheels, for tests that install: pip takes them from a folder and asks no index."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest


def write_wheel(folder: Path, name: str, version: str, source: str, needs: Sequence[str] = ()) -> Path:
    """A wheel with one module of the package's name."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    metadata = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {n}" for n in needs),
    ]
    files = {
        f"{name}.py": source,
        f"{info}/METADATA": "\n".join(metadata) + "\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in files.items():
            archive.writestr(member, content)
    return path


def pip_variables(folder: Path) -> Mapping[str, str]:
    """Has pip take packages from the folder only."""
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)}


def only_from(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has pip take packages from the folder only, in this test."""
    for name, value in pip_variables(folder).items():
        monkeypatch.setenv(name, value)
