"""Records of several machines at one place: moved whole, read once, purged; and a place that does not answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from typer.testing import CliRunner

from handlers.record_files import INPUTS, OPEN_SEGMENT, PARQUET, RECORDS, parse_record_file
from tests.unit.test_records_read import DAY_S, NOW, Folder
from tsctl.cli.records import app
from tsctl.config.deployment import read_deployment
from tsctl.errors import AnalysisError, ConflictError, SpecError, TsctlError
from tsctl.host.remote import PART, absolute
from tsctl.records import shared as sharing
from tsctl.records.database import Place, query
from tsctl.records.labels import add, label_files
from tsctl.records.shared import SharedPlace

MEMORY = "memory://shared/records"


@pytest.fixture(params=["a folder", "an address"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SharedPlace]:
    yield SharedPlace(str(tmp_path / "shared") if request.param == "a folder" else MEMORY)
    system = fsspec.filesystem("memory")
    if system.exists("/shared"):
        system.rm("/shared", recursive=True)


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Folder]:
    """Two nodes, each of a machine of its own."""
    return {name: Folder(tmp_path / name) for name in ("one", "two")}


def rows(places: list[Place], sql: str = "SELECT node, request_id FROM records ORDER BY ALL") -> list[tuple[Any, ...]]:
    return query(places, sql)[1]


def test_records_of_two_machines_are_moved_and_are_one_table(shared: SharedPlace, folders: dict[str, Folder]) -> None:
    assert shared.places() == []
    for name, folder in folders.items():
        folder.segment(f"{name}-a", f"{name}-b")
        folder.segment(f"{name}-input", kind=INPUTS)
        folder.segment(f"{name}-open", end=OPEN_SEGMENT)
        pushed = shared.push(name, folder.path, NOW)
        assert (pushed.files, pushed.expired, pushed.bytes > 0) == (2, 0, True)
        assert folder.names(PARQUET) == []
    assert rows(shared.places()) == [(name, f"{name}-{end}") for name in folders for end in ("a", "b", "open")]
    folders["one"].segment("one-new")
    both = [*folders["one"].places, *shared.places()]
    assert len(rows(both)) == 7
    assert shared.push("one", folders["one"].path, NOW).files == 1
    assert len(rows([*folders["one"].places, *shared.places()])) == 7
    assert shared.push("one", folders["one"].path, NOW).files == 0


def test_files_at_a_shared_folder_are_their_owners_alone(folders: dict[str, Folder], tmp_path: Path) -> None:
    folders["one"].segment("a")
    SharedPlace(str(tmp_path / "shared")).push("one", folders["one"].path, NOW)
    node = tmp_path / "shared" / "one"
    assert node.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in node.iterdir()} == {0o600}


@pytest.mark.parametrize("step", ["put", "move", "unlink"])
def test_a_push_that_is_killed_at_any_step_loses_and_doubles_nothing(
    shared: SharedPlace, folders: dict[str, Folder], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    class Killed(BaseException):
        pass

    folder = folders["one"]
    own = [Place("one", str(folder.path))]
    folder.segment("a", "b")
    put = sharing._put

    def struck(system: Any, path: Path, target: str) -> int:
        if step == "put":
            raise Killed
        if step == "move":
            system.makedirs(target.rpartition("/")[0], exist_ok=True)
            system.put_file(str(path), f"{target}{PART}")
            raise Killed
        put(system, path, target)
        raise Killed

    monkeypatch.setattr(sharing, "_put", struck)
    with pytest.raises(Killed):
        shared.push("one", folder.path, NOW)
    assert [row[1] for row in rows([*own, *shared.places()])] == ["a", "b"]
    monkeypatch.setattr(sharing, "_put", put)
    assert shared.push("one", folder.path, NOW).files == 1
    assert [row[1] for row in rows([*own, *shared.places()])] == ["a", "b"]


def test_what_has_expired_is_deleted_there_by_its_own_node(shared: SharedPlace, folders: dict[str, Folder]) -> None:
    for name, folder in folders.items():
        folder.segment(f"{name}-old", expiry_s=NOW + 1)
        folder.segment(f"{name}-new", expiry_s=NOW + 5 * DAY_S)
        shared.push(name, folder.path, NOW)
    assert shared.push("one", folders["one"].path, NOW + 2).expired == 1
    assert [row[1] for row in rows(shared.places())] == ["one-new", "two-new", "two-old"]


def test_a_client_is_purged_there_with_its_labels_and_nobody_else(
    shared: SharedPlace, folders: dict[str, Folder], tmp_path: Path
) -> None:
    for name, folder in folders.items():
        folder.segment(f"{name}-a", client="shop")
        folder.segment(f"{name}-b", client="other")
        folder.segment(f"{name}-c", client="shop", kind=INPUTS)
        shared.push(name, folder.path, NOW)
    labels = tmp_path / "labels"
    (tmp_path / "given.csv").write_text("request_id,label\none-a,x\none-b,x\n")
    add(labels, tmp_path / "given.csv")
    assert shared.purge("shop", labels) == {
        "one": {RECORDS: 1, INPUTS: 1, "labels": 1}, "two": {RECORDS: 1, INPUTS: 1},
    }  # fmt: skip
    assert rows(shared.places()) == [("one", "one-b"), ("two", "two-b")]
    assert rows(shared.places(), "SELECT * FROM inputs") == []
    assert len(label_files(labels)) == 1
    system, root = fsspec.core.url_to_fs(shared.address)
    assert b"shop" not in b"".join(system.cat_file(path) for path in system.find(root))


def test_two_purges_at_a_time_are_noticed(
    shared: SharedPlace, folders: dict[str, Folder], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folders["one"].segment("a", client="shop")
    folders["one"].segment("b", client="other")
    shared.push("one", folders["one"].path, NOW)
    system, root = fsspec.core.url_to_fs(shared.address)
    [path] = system.find(root)
    before = system.cat_file(path)
    put = sharing._put

    def overwritten(system: Any, source: Path, target: str) -> int:
        size = put(system, source, target)
        system.pipe_file(target, before)
        return size

    monkeypatch.setattr(sharing, "_put", overwritten)
    with pytest.raises(ConflictError, match="written again by another purge"):
        shared.purge("shop", tmp_path / "labels")


@pytest.mark.parametrize(
    ("address", "error", "reason"),
    [("nope://x/y", SpecError, "nope"), ("down://x/y", AnalysisError, "Serving goes on without it")],
)
def test_a_place_that_cannot_be_used_is_named_and_every_file_stays(
    folders: dict[str, Folder], address: str, error: type[TsctlError], reason: str
) -> None:
    class Down(fsspec.AbstractFileSystem):  # type: ignore[misc]
        protocol = "down"

        def __getattribute__(self, name: str) -> Any:
            if name in ("exists", "ls", "find", "makedirs", "put_file"):
                raise RuntimeError("Could not connect to the endpoint")
            return super().__getattribute__(name)

    fsspec.register_implementation("down", Down, clobber=True)
    folder = folders["one"]
    folder.segment("a")
    for act in (SharedPlace(address).places, lambda: SharedPlace(address).push("one", folder.path, NOW)):
        with pytest.raises(error) as raised:
            act()
        assert address in raised.value.message
        assert reason in f"{raised.value.message} {raised.value.hint}"
    assert folder.ids() == ["a"]


# ---- commands -------------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A project whose node has one record, with this `records` in its deployment.yaml; its folder."""

    def made(records: str) -> Path:
        (tmp_path / "deployment.yaml").write_text(
            f'nodes:\n  one: {{engine: uvicorn, address: "http://127.0.0.1:18090"}}\nrecords: {records}\nmodels: {{}}\n'
        )
        (tmp_path / ".tsctl" / "nodes" / "one").mkdir(parents=True)
        Folder(tmp_path / ".tsctl" / "nodes" / "one" / "records").segment("a", client="shop", expiry_s=NOW * 2)
        monkeypatch.setenv("TSCTL_PROJECT", str(tmp_path))
        return tmp_path

    return made


def test_the_commands_push_read_and_purge_the_place_of_deployment_yaml(project: Callable[[str], Path]) -> None:
    root = project("{shared: elsewhere}")
    pushed = CliRunner().invoke(app, ["push"])
    assert pushed.exit_code == 0, pushed.exception
    assert pushed.stdout.startswith("one: 1 file moved (0.0 MiB), 0 files expired at ")
    assert [parse_record_file(path.name) is not None for path in (root / "elsewhere" / "one").iterdir()] == [True]
    shown = CliRunner().invoke(app, ["query", "SELECT node, request_id FROM records", "--json"])
    assert '"request_id": "a"' in shown.stdout
    assert CliRunner().invoke(app, ["query", "SELECT * FROM records", "--node", "one", "--json"]).stdout == "[]\n"
    purged = CliRunner().invoke(app, ["purge", "--client", "shop"])
    assert purged.exit_code == 0, purged.exception
    assert f"one at {root / 'elsewhere'}: removed 1 records" in purged.stdout
    assert list((root / "elsewhere" / "one").iterdir()) == []


def test_a_push_without_a_place_says_where_to_name_one(project: Callable[[str], Path]) -> None:
    project("{}")
    refused = CliRunner().invoke(app, ["push"])
    assert isinstance(refused.exception, SpecError)
    assert "records: {shared: ADDRESS}" in refused.exception.hint


def test_an_address_has_no_secret_and_a_path_is_the_projects(tmp_path: Path) -> None:
    path = tmp_path / "deployment.yaml"
    node = 'nodes: {one: {engine: uvicorn, address: "http://127.0.0.1:18090"}}'
    path.write_text(f'{node}\nrecords: {{shared: "s3://k:s@b"}}\n')
    with pytest.raises(SpecError, match="must not name a user or a secret"):
        read_deployment(path)
    assert absolute("s3://bucket/records", tmp_path) == "s3://bucket/records"
    assert absolute("file:///srv/records", tmp_path) == "/srv/records"
    assert absolute("records", tmp_path) == str(tmp_path / "records")
