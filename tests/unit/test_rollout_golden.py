"""What counts as a right answer to a golden sample."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from handlers.contract import Tolerance
from tsctl.archive.known import difference_of
from tsctl.archive.store import StoredArchive
from tsctl.rollout.run.golden import read_golden
from tsctl.rollout.run.preconditions import generates_text


@pytest.mark.parametrize(("status", "body", "why"), [
    (200, b'{"label": 7}', ""),
    (200, b'{"label": 8}', "expected 7"),
    (200, b"seven", "no JSON: seven"),
    (200, b"\xff\xfe", "no JSON"),
    (503, b"no worker", "503: no worker"),
])  # fmt: skip
def test_an_answer_is_right_or_says_why_not(status: int, body: bytes, why: str) -> None:
    found = difference_of(status, body, {"label": 7}, Tolerance(1e-4, 0.0))
    assert bool(found) == bool(why)
    assert why in found


@pytest.mark.parametrize(("serving", "is_text"), [("{generation: {backend: auto}}", True), ("{}", False)])
def test_an_archive_says_whether_its_model_generates_text(tmp_path: Path, serving: str, is_text: bool) -> None:
    manifest = {"model": {"modelName": "m", "handler": "h.py", "modelVersion": "1.0", "configFile": "config.yaml"}}
    path = tmp_path / "m-1.0.mar"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        archive.writestr("config.yaml", f"serving: {serving}\n")
    stored = StoredArchive(path, "m", "1.0", "0" * 12)
    assert generates_text(stored) is is_text
    assert read_golden(stored).is_text is is_text
