"""What machines share, damaged: every reader says which object it is, and none fails in another way."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.unit.memory_place import MemoryPlace
from tsctl.archive.remote_store import Kept, RemoteStore
from tsctl.cli.control import status
from tsctl.cli.remote import list_remote
from tsctl.control.folder import FolderPlace
from tsctl.control.lease import DamagedLease, Holder, read_term, sign_content, term_content
from tsctl.control.place import TooLarge, numbers
from tsctl.errors import AnalysisError, ArchiveError, GatewayError, TsctlError
from tsctl.gateway.files import read_document
from tsctl.gateway.shared import generation, report
from tsctl.gateway.shared.generation import Generation
from tsctl.gateway.shared.packed import pack, unpack
from tsctl.gateway.shared.report import Report
from tsctl.host.documents import checked
from tsctl.host.remote_files import open_files
from tsctl.rollout.run.journal_lines import DamagedJournal
from tsctl.rollout.run.shared import SharedCommands, SharedJournals, read_object
from tsctl.tune.journal import Journal

HOLDER = Holder("me@here", "boot/pid", 1, 2, "token")

DAMAGES = {
    "empty": b"",
    "no text": b"\xff\xfe",
    "no JSON": b'{"format": 1',
    "too deep": b"[" * 100_000,
    "a list": b"[]",
    "null": b"null",
    "no keys": b"{}",
    "no number": b'{"format": 1e999}',
}


def entry_of(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "archives" / "m" / "1.0" / "000001.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    RemoteStore(str(tmp_path), {}).entry("m", "1.0")


def begun(content: bytes, tmp_path: Path) -> None:
    place = MemoryPlace()
    place.content["begun/m/000001.json"] = content
    SharedJournals(place).ids("m")


def trials(content: bytes, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "m.jsonl", {})
    journal.path.write_bytes(content + b"\n")
    try:
        journal.resume()
    finally:
        assert journal.path.read_bytes() == content + b"\n", "it stays as it is, for people"


READERS: dict[str, tuple[type[TsctlError], Callable[[bytes, Path], object]]] = {
    "a term": (DamagedLease, lambda content, _: read_term("rollout m", 1, content)),
    "a sign of life": (DamagedLease, lambda content, _: read_term("r", 1, term_content(HOLDER, 1.0), 1, content)),
    "an entry of a journal": (DamagedJournal, lambda content, _: read_object("rollouts/m/a/000000.json", 0, content)),
    "the id of a rollout": (DamagedJournal, begun),
    "a generation": (generation.DamagedGeneration, lambda content, _: generation.from_bytes(content, "g")),
    "a report": (GatewayError, lambda content, _: report.from_bytes(content, "r")),
    "an entry of the store": (ArchiveError, entry_of),
    "the journal of a search": (TsctlError, trials),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_object_is_an_error_that_names_it(reader: str, damage: str, tmp_path: Path) -> None:
    if reader == "a sign of life" and damage == "no keys":
        return  # that is a sign
    kind, read = READERS[reader]
    with pytest.raises(kind) as caught:
        read(DAMAGES[damage], tmp_path)
    assert caught.value.hint and "\n" not in caught.value.message


def with_holder(**more: object) -> bytes:
    return json.dumps({"holder": {**vars(HOLDER), **more}, "at": 1.0}).encode()


@pytest.mark.parametrize(
    "content",
    [
        with_holder(pid="x"),
        with_holder(by=["me"]),
        with_holder(unknown=1),
        term_content(HOLDER, 1e300),  # time.localtime cannot show it
        term_content(HOLDER, -1.0),
        json.dumps({"holder": vars(HOLDER), "at": "now"}).encode(),
    ],
)
def test_a_lease_with_wrong_values_is_damaged(content: bytes) -> None:
    assert read_term("r", 1, term_content(HOLDER, 1.0), 1, sign_content(2.0)).holder == HOLDER
    with pytest.raises(DamagedLease, match="cannot be read"):
        read_term("r", 1, content)


def edited(content: bytes, edit: Callable[[Any], object]) -> bytes:
    read = json.loads(content)
    edit(read)
    return json.dumps(read).encode()


@pytest.mark.parametrize(
    "edit",
    [
        lambda read: read.update(traffic=[{"model": "m", "weights": {"1": "x"}, "canary": None, "shadow": None}]),
        lambda read: read.update(traffic=[{"model": "m", "weights": {}, "canary": None, "shadow": None}]),
        lambda read: read.update(traffic=7),
        lambda read: read.update(packed=7),
        lambda read: read.update(packed=read["packed"][: len(read["packed"]) // 8 * 4]),
        lambda read: read.update(packed=pack({"deployment": "", "records": [{"id": 1}], "plain": {}, "upstreams": []})),
        lambda read: read.update(packed=pack({"deployment": "", "records": [], "plain": {}, "upstreams": [{}]})),
    ],
)
def test_a_generation_with_wrong_values_is_damaged(edit: Callable[[Any], object]) -> None:
    whole = generation.to_bytes(replace(Generation(), number=1))
    assert generation.from_bytes(whole, "g").number == 1
    with pytest.raises(generation.DamagedGeneration, match="g in the place of control is damaged"):
        generation.from_bytes(edited(whole, edit), "g")


@pytest.mark.parametrize("more", [{"at": "x"}, {"generation": None}, {"error": 7}, {"unknown": 1}])
def test_a_report_with_wrong_values_is_damaged(more: dict[str, object]) -> None:
    whole = report.to_bytes(Report("a", 1, "o", 1.0, 1))
    assert report.from_bytes(whole, "r").number == 1
    with pytest.raises(GatewayError, match="r in the place of control is damaged"):
        report.from_bytes(edited(whole, lambda read: read.update(more)), "r")


def test_a_small_object_cannot_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    large = pack("x" * 1000)
    monkeypatch.setattr("tsctl.gateway.shared.packed.LARGEST", 1000)
    assert unpack(pack("x" * 900)) == "x" * 900
    with pytest.raises(ValueError, match="more than 1000 bytes"):
        unpack(large)
    with pytest.raises(TooLarge, match="what a gateway reads at the place of control would have"):
        pack("x" * 1000)


@pytest.mark.parametrize("content", ["[]", "7", "[" * 100_000, '{"a"'])
def test_a_document_of_the_gateway_is_a_json_object(tmp_path: Path, content: str) -> None:
    path = tmp_path / "follows.json"
    path.write_text(content)
    with pytest.raises(GatewayError, match=r"follows\.json is damaged"):
        read_document(path)


def test_an_id_that_leads_out_of_the_folder_is_damaged() -> None:
    for id in ("../../x", "a/b", "", 7, ".hidden"):
        with pytest.raises(DamagedJournal, match="is no id of a rollout"):
            begun(json.dumps({"id": id}).encode(), Path())


def test_a_command_that_is_none_is_removed() -> None:
    place = MemoryPlace()
    place.content["asked/m/1.json"] = DAMAGES["too deep"]
    assert SharedCommands(place, "m").take() == []
    assert place.content == {}


def test_files_that_others_left_in_a_place_are_no_objects(tmp_path: Path) -> None:
    place = FolderPlace(str(tmp_path))
    place.create("asked/m/000001.json", b"{}")
    for name in ("my file.json", "000002.json~", "#000003.json#", ".000004.json"):
        (tmp_path / "asked" / "m" / name).write_text("x")
    assert place.names("asked/") == ["asked/m/000001.json"]
    assert numbers(place, "asked/m") == [1]
    assert [place.read(name) for name in place.names("")] == [b"{}"]


def test_names_that_are_no_reports_are_none() -> None:
    names = ["notes.txt", "a/notes.txt", "a/000007.json", "a/7.json", "a/b/000009.json", "b/000001.json.bak"]
    assert report.newest_reports(f"{report.REPORTS}/{name}" for name in names) == {"a": 7}


def test_files_that_others_left_in_a_store_are_no_versions(tmp_path: Path) -> None:
    (tmp_path / "archives" / "m").mkdir(parents=True)
    (tmp_path / "archives" / "m" / "notes").write_text("x")
    (tmp_path / "archives" / "notes").write_text("x")
    store = RemoteStore(str(tmp_path), {})
    assert {model: store.versions(model) for model in store.models()} == {"m": ["notes"], "notes": []}
    assert store.entry("m", "notes") is None
    assert open_files(str(tmp_path), {}).size("archives/notes/x") is None


def test_a_value_of_another_type_is_found() -> None:
    assert checked(HOLDER) == HOLDER
    with pytest.raises(ValueError, match=r"^pid: should be a valid integer$"):
        checked(replace(HOLDER, pid="x"))  # type: ignore[arg-type]


def test_a_search_with_wrong_values_is_not_resumed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "m.jsonl", {})
    for notes in ({"connections": 0, "base_s": 1.0}, {"connections": 8, "base_s": "x"}, {"connections": 8}, {}):
        journal.path.write_text(json.dumps({"form": 1, "notes": notes}) + "\n")
        with pytest.raises(AnalysisError, match=r"m\.jsonl is damaged"):
            journal.resume()


def test_a_damaged_lease_hides_no_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = FolderPlace(str(tmp_path))
    place.create("lease/a/000001.json", b"{}")
    place.create("lease/b/000001.json", term_content(HOLDER, 1.0))
    (tmp_path / "deployment.yaml").write_text(f"nodes: {{local: {{}}}}\ncontrol: {tmp_path}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DamagedLease, match="lease of a, term 1"):
        status(json=True)
    shown = json.loads(capsys.readouterr().out)
    assert [row["lease"] for row in shown["leases"]] == ["b"]
    assert len(shown["damaged"]) == 1


def test_a_damaged_entry_of_the_store_hides_no_other_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "w").write_bytes(b"w")
    store = RemoteStore(str(tmp_path / "store"), {})
    for model in ("a", "b"):
        store.push(tmp_path / "w", model, "1.0", sha256(b"w").hexdigest(), Kept({}, {}))
    (tmp_path / "store/archives/a/1.0/000001.json").write_text("{}")
    (tmp_path / "deployment.yaml").write_text("nodes: {local: {}}\nstore: store\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArchiveError, match=r"a/1\.0/000001\.json is damaged: model: missing, and required"):
        list_remote(None, json=True)
    assert [row["model"] for row in json.loads(capsys.readouterr().out)] == ["b"]
