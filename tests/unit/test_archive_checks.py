"""What is wrong with an archive is found before any of it runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml

from tsctl.archive.checks import FAIL, PASS, SKIP, WARN, content_checks, pickle_check, structure_checks
from tsctl.archive.container import open_archive, unpack
from tsctl.archive.inspect import read_facts
from tsctl.archive.pickles import unsafe_pickles
from tsctl.archive.store import (
    import_archive,
    list_archives,
    write_archive,
)
from tsctl.config.project import Project
from tsctl.errors import ArchiveError

MANIFEST = {"model": {"modelName": "toy", "modelVersion": "1.0", "handler": "h", "configFile": "model-config.yaml"}}
CONFIG = {"batchSize": 4, "startupTimeout": 60, "responseTimeout": 30}


def entries(
    extra: Mapping[str, bytes] | None = None, config: Mapping[str, Any] = CONFIG, is_stock: bool = False
) -> dict[str, bytes]:
    found = {
        "MAR-INF/MANIFEST.json": json.dumps(MANIFEST).encode(),
        "model-config.yaml": yaml.safe_dump(dict(config)).encode(),
        "h.py": b"class H: pass\n",
        **(extra or {}),
    }
    digests = {name: sha256(content).hexdigest() for name, content in found.items()}
    return found if is_stock else {**found, "MAR-INF/DIGESTS.json": json.dumps(digests).encode()}


def outcomes(path: Path) -> dict[str, tuple[str, str]]:
    checks = list(structure_checks(path))
    if all(check.outcome == PASS for check in checks):
        with open_archive(path) as archive:
            checks += content_checks(path, archive, read_facts(archive))
    return {check.name: (check.outcome, check.detail) for check in checks}


def store(folder: Path, content: Mapping[str, bytes]) -> Path:
    return write_archive(dict(content), folder, "toy", "1.0").path


def test_a_good_archive_passes_every_check(tmp_path: Path) -> None:
    assert {outcome for outcome, _ in outcomes(store(tmp_path, entries())).values()} == {PASS}


def test_a_stock_archive_passes_or_is_warned_of(tmp_path: Path) -> None:
    found = outcomes(store(tmp_path, entries(config={"batchSize": 4}, is_stock=True)))
    assert found["digests"][0] == SKIP
    assert found["timeouts and numbers"] == (
        WARN, "model-config.yaml does not state startupTimeout and responseTimeout"
    )  # fmt: skip
    assert FAIL not in {outcome for outcome, _ in found.values()}


def test_missing_timeouts_of_our_own_archive_fail(tmp_path: Path) -> None:
    found = outcomes(store(tmp_path, entries(config={"startupTimeout": 60})))
    assert found["timeouts and numbers"] == (FAIL, "model-config.yaml does not state responseTimeout")


@pytest.mark.parametrize("value", ["60", 60.5, True, None])
def test_a_number_that_torchserve_would_ignore_fails(tmp_path: Path, value: Any) -> None:
    found = outcomes(store(tmp_path, entries(config={**CONFIG, "startupTimeout": value})))
    assert found["timeouts and numbers"][0] == FAIL
    assert f"startupTimeout is {value!r}" in found["timeouts and numbers"][1]


def test_changed_missing_and_added_entries_do_not_match_the_digests(tmp_path: Path) -> None:
    content = entries({"a.bin": b"1", "b.bin": b"2"})
    content["a.bin"] = b"x"
    del content["b.bin"]
    content["c.bin"] = b"3"
    assert outcomes(store(tmp_path, content))["digests"] == (
        FAIL, "b.bin, c.bin, a.bin differ from what was built"
    )  # fmt: skip


@pytest.mark.parametrize("digests", [b"[]", b"1", b"{", b"[" * 10_000, b'{"h.py": [1]}', b'{"h.py": 1, "h.py": 2}'])
def test_digests_of_another_form_do_not_match(tmp_path: Path, digests: bytes) -> None:
    assert outcomes(store(tmp_path, {**entries(), "MAR-INF/DIGESTS.json": digests}))["digests"][0] == FAIL


def test_a_byte_changed_in_the_file_is_found(tmp_path: Path) -> None:
    path = store(tmp_path, entries({"weights.bin": b"weights" * 100}))
    content = bytearray(path.read_bytes())
    content[content.index(b"weights" * 100)] ^= 1
    path.write_bytes(content)
    found = outcomes(path)
    assert found["file name"][0] == FAIL
    assert found["digests"][0] == FAIL
    assert "weights.bin" in found["digests"][1]


def test_a_file_under_another_models_name_is_found(tmp_path: Path) -> None:
    path = write_archive(dict(entries()), tmp_path, "other", "1.0").path
    assert outcomes(path)["file name"] == (FAIL, "it holds toy 1.0")
    plain = path.rename(tmp_path / "toy.mar")
    assert outcomes(plain)["file name"][0] == SKIP


@pytest.mark.parametrize("name", ["json.py", "random.py", "torch/__init__.py", "ts/service.py", "numpy.py", "yaml.py"])
def test_a_name_that_comes_before_the_workers_own_module_is_found(tmp_path: Path, name: str) -> None:
    found = outcomes(store(tmp_path, entries({name: b""})))["no module is shadowed"]
    assert found == (FAIL, f"{name.split('/')[0]} come before the worker's own modules of that name")


def test_a_name_that_only_looks_like_one_is_not(tmp_path: Path) -> None:
    extra = {"samples/json.json": b"1", "random.bin": b"", "my/json.py": b"", "jsonx.py": b""}
    assert outcomes(store(tmp_path, entries(extra)))["no module is shadowed"][0] == PASS


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        (b"{", "MAR-INF/MANIFEST.json cannot be read"),
        (b"[]", "content: []: should be a mapping of keys to values"),
        (b'{"model": {"modelName": "toy"}}', "model.handler: missing"),
        (b'{"model": {"handler": "h"}}', "model.modelName: missing"),
    ],
)
def test_a_broken_manifest_ends_the_checks(tmp_path: Path, manifest: bytes, expected: str) -> None:
    found = outcomes(store(tmp_path, {**entries(), "MAR-INF/MANIFEST.json": manifest}))
    assert list(found) == ["zip file", "manifest"]
    assert found["manifest"][0] == FAIL
    assert expected in found["manifest"][1]


def test_a_zip_file_without_a_manifest_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.mar"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("h.py", "")
    assert outcomes(path)["manifest"][0] == FAIL
    with pytest.raises(ArchiveError, match="is no archive"):
        import_archive(Project(tmp_path), path)


class Evil:
    """Runs a command when it is read."""

    def __reduce__(self) -> Any:
        return os.system, ("true",)


class Unknown:
    """Imports something that nobody knows."""

    def __reduce__(self) -> Any:
        return sorted, ([1],)


def torch_zip(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/data/0", b"\0" * 8)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["model.pt", "weights.bin", "x.pkl", "no_suffix", "picture.png"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_that_runs_code_is_found_under_any_name(tmp_path: Path, name: str, protocol: int) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(Evil(), protocol))
    check = pickle_check(unsafe_pickles(tmp_path), trust=True)
    assert check.outcome == FAIL, "what is known as dangerous is never trusted"
    assert check.detail == f"{name} imports posix.system"


def test_a_pickle_inside_a_torch_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(torch_zip(pickle.dumps(Evil(), 2)))
    assert pickle_check(unsafe_pickles(tmp_path), trust=True).outcome == FAIL


def test_an_unknown_import_fails_unless_it_is_trusted(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"a": Path("x"), "b": Unknown()}))
    assert pickle_check(unsafe_pickles(tmp_path), trust=False).outcome == FAIL
    assert pickle_check(unsafe_pickles(tmp_path), trust=True).outcome in (WARN, FAIL)


def test_plain_values_are_safe(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": [1, 2.0, "x", b"y"]}))
    assert pickle_check(unsafe_pickles(tmp_path), trust=False).outcome == PASS


@pytest.mark.parametrize("content", [pickle.dumps(Evil())[:-1], pickle.dumps(Evil())[:-1] + b"\xff", b"N." * 9])
def test_a_damaged_pickle_runs_up_to_its_damage_and_is_found(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pkl").write_bytes(content + pickle.dumps(Evil()))
    check = pickle_check(unsafe_pickles(tmp_path), trust=True)
    assert check.outcome == FAIL
    assert "a.pkl imports posix.system" in check.detail


@pytest.mark.parametrize(
    ("model", "version"),
    [("../../evil", "1.0"), ("my model", "1.0"), ("tokenizer", "1.0"), ("m", "1.0-rc1"), ("m", "all"), ("m", "token1")],
)
def test_names_that_the_store_or_torchserve_cannot_carry_are_refused(tmp_path: Path, model: str, version: str) -> None:
    manifest = {"model": {"modelName": model, "modelVersion": version, "handler": "h"}}
    path = store(tmp_path / "elsewhere", {**entries(), "MAR-INF/MANIFEST.json": json.dumps(manifest).encode()})
    with pytest.raises(ArchiveError, match=r"modelName|modelVersion"):
        import_archive(Project(tmp_path / "project"), path)
    assert not (tmp_path / "project").exists()
    assert outcomes(path)["manifest"][0] == FAIL


@pytest.mark.parametrize("place", [b'"modelName"', b"startupTimeout", b"class H"])
def test_a_damaged_archive_is_told_and_gives_no_traceback(tmp_path: Path, place: bytes) -> None:
    path = store(tmp_path, entries()).rename(tmp_path / "damaged.mar")
    content = bytearray(path.read_bytes())
    content[content.index(place)] ^= 1
    path.write_bytes(content)
    assert FAIL in {outcome for outcome, _ in outcomes(path).values()}
    with pytest.raises(ArchiveError, match="cannot be unpacked"):
        unpack(path, tmp_path / "folder")


def test_a_damaged_stream_and_a_folder_are_no_archives(tmp_path: Path) -> None:
    path = tmp_path / "deflated.mar"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("h.py", "x = 1\n" * 1000)
    content = bytearray(path.read_bytes())
    content[40] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"entry h\.py cannot be unpacked"):
        unpack(path, tmp_path / "folder")
    with pytest.raises(ArchiveError, match="is no archive"):
        import_archive(Project(tmp_path), tmp_path)


def test_a_file_that_is_also_a_folder_is_not_unpacked(tmp_path: Path) -> None:
    path = store(tmp_path, entries({"x": b"1", "x/y": b"2"}))
    with pytest.raises(ArchiveError, match="entry 'x/y' lies in 'x', which is a file"):
        unpack(path, tmp_path / "folder")


def test_an_archive_from_elsewhere_is_copied_once_under_the_stores_name(tmp_path: Path) -> None:
    project = Project(tmp_path)
    made = store(tmp_path / "elsewhere", entries()).rename(tmp_path / "elsewhere" / "any name.mar")
    first = import_archive(project, made)
    assert first == import_archive(project, made) == import_archive(project, first.path)
    assert list_archives(project) == [first]
    assert first.path.read_bytes() == made.read_bytes()
