"""Records are read whole and once, from open and closed segments and Parquet, while others compact and purge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from handlers.record_files import CLOSED_SEGMENT, INPUTS, OPEN_SEGMENT, PARQUET, RECORDS, RecordFile, record_files
from tsctl.errors import AnalysisError, ConflictError, SpecError
from tsctl.host.locks import exclusive
from tsctl.records import compact as compacting
from tsctl.records import database
from tsctl.records.compact import MANY, compact, purge
from tsctl.records.database import COLUMNS, Place, open_records, query
from tsctl.records.export import export
from tsctl.records.folder import JOURNAL, current_files, finish, replace
from tsctl.records.labels import add, label_files

CHECKOUT = Path(__file__).resolve().parents[2]
PAGE = (CHECKOUT / "docs" / "records.md").read_text(encoding="utf-8")
NOW = 1_764_150_000.0
DAY_S = 86_400.0


class Folder:
    """A node's folder of records, into which tests write as workers do."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.places = [Place("local", str(path))]
        self._files = 0

    def segment(
        self, *ids: str, end: str = CLOSED_SEGMENT, kind: str = RECORDS, expiry_s: float = NOW + DAY_S,
        tail: bytes = b"", **columns: Any,
    ) -> Path:  # fmt: skip
        self._files += 1
        begin_ms = round(NOW * 1000) + self._files
        path = self.path / RecordFile(begin_ms, round(expiry_s * 1000), kind, f"w{self._files}", end).name
        lines = [json.dumps(line(name, kind, **columns)).encode() + b"\n" for name in ids]
        path.write_bytes(b"".join(lines) + tail)
        return path

    def names(self, end: str) -> list[str]:
        return [file.name for file in record_files(self.path) if file.end == end]

    def ids(self, kind: str = RECORDS) -> list[str]:
        _, rows = query(self.places, f"SELECT request_id FROM {kind} ORDER BY request_id")  # noqa: S608
        return [row[0] for row in rows]


def line(name: str, kind: str = RECORDS, **columns: Any) -> dict[str, Any]:
    identity = {"time_us": round(NOW * 1e6), "request_id": name, "row": 0, "model": "toy", "version": "1.0"}
    own = {"status": 200, "score": 0.5, "numbers": {"age": 41.0}, "scores": [0.5, 0.25], "batch_ms": 2.0}
    return {**identity, **(own if kind == RECORDS else {"input": "{}"}), **columns}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "records")


# ---- reading ---------------------------------------------------------------------------------------------------------


def test_the_page_has_every_column_of_a_record() -> None:
    table = PAGE.partition("## What a record holds")[2].partition("**Features.**")[0]
    written = [name for row in table.splitlines() if row.startswith("| `") for name in row.split("|")[1].split(",")]
    assert sorted(name.strip(" `") for name in written) == sorted(["node", "time", *COLUMNS[RECORDS]])


def test_open_and_closed_segments_and_parquet_are_one_table(folder: Folder) -> None:
    folder.segment("a", "b")
    compact(folder.path, NOW)
    folder.segment("c")
    folder.segment("d", end=OPEN_SEGMENT)
    assert folder.ids() == ["a", "b", "c", "d"]
    columns, [row] = query(folder.places, "SELECT * FROM records WHERE request_id = 'a'")
    found = dict(zip(columns, row, strict=True))
    assert set(columns) == {"node", "time", *COLUMNS[RECORDS]}
    assert (found["node"], found["numbers"], found["scores"], found["label"]) == (
        "local",
        {"age": 41.0},
        [0.5, 0.25],
        None,
    )
    assert found["time"].isoformat() == "2025-11-26T09:40:00"


def test_a_line_cut_off_anywhere_is_no_record(folder: Folder) -> None:
    whole = json.dumps(line("torn")).encode()
    path = folder.segment("a", end=OPEN_SEGMENT)
    before = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(before + whole[:length])
        assert folder.ids() == ["a"]
    path.write_bytes(before + whole + b"\n")
    assert folder.ids() == ["a", "torn"]


def test_no_folder_and_an_empty_one_are_empty_tables(tmp_path: Path, folder: Folder) -> None:
    for place in (Place("none", str(tmp_path / "missing")), *folder.places):
        assert query([place], "SELECT count(*), (SELECT count(*) FROM inputs) FROM records") == (
            ["count_star()", "(SELECT count_star() FROM inputs)"], [(0, 0)]
        )  # fmt: skip


def test_several_nodes_are_one_table_with_their_names(tmp_path: Path) -> None:
    nodes = [Folder(tmp_path / name) for name in ("one", "it's")]
    for node in nodes:
        node.segment("a")
    places = [Place(node.path.name, str(node.path)) for node in nodes]
    assert sorted(query(places, "SELECT node, count(*) FROM records GROUP BY node")[1]) == [("it's", 1), ("one", 1)]


@pytest.mark.parametrize(
    "sql",
    [
        "DROP VIEW records",
        "COPY records TO 'out.csv'",
        "SELECT 1; SELECT 2",
        "SET memory_limit = '100GB'",
        "INSERT INTO records SELECT * FROM records",
        "ATTACH 'other.db'",
        "PRAGMA database_list",
        "",
        "SELEC 1",
        "SELECT nothing FROM records",
        "SELECT * FROM read_text('/etc/passwd')",
    ],
)
def test_a_query_is_one_select_over_the_tables(folder: Folder, sql: str, tmp_path: Path) -> None:
    folder.segment("a")
    with pytest.raises((SpecError, AnalysisError)):
        query(folder.places, sql)
    assert list(tmp_path.iterdir()) == [folder.path]


def test_a_query_that_needs_too_much_memory_says_so(folder: Folder) -> None:
    with pytest.raises(AnalysisError, match=f"needs more than {database.MEMORY}"):
        query(folder.places, "SELECT list(range) FROM range(100000000)")


def test_a_file_that_disappears_while_it_is_read_is_looked_for_again(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.segment("a")
    gone = folder.segment("b")
    files = Place.files

    def then_gone(place: Place) -> dict[str, RecordFile]:
        found = files(place)
        gone.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Place, "files", then_gone)
    assert folder.ids() == ["a"]


# ---- compaction ------------------------------------------------------------------------------------------------------


def test_closed_segments_become_one_file_and_small_files_are_merged(folder: Folder) -> None:
    for number in range(MANY):
        folder.segment(f"{number}a", f"{number}b")
        folder.segment(f"{number}c", kind=INPUTS)
        done = compact(folder.path, NOW)
    assert (done.segments, done.files, done.expired) == (2, 4, 0)
    assert sorted(file.kind for file in current_files(folder.path)) == [INPUTS, RECORDS]
    assert folder.ids() == [f"{number}{name}" for number in range(MANY) for name in "ab"]
    assert folder.ids(INPUTS) == [f"{number}c" for number in range(MANY)]
    assert list(folder.path.glob(f"*{JOURNAL}")) == []
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.path.iterdir())
    assert compact(folder.path, NOW).files == 0


def test_the_segment_of_a_killed_worker_is_taken_too(folder: Folder) -> None:
    folder.segment("a", end=OPEN_SEGMENT, tail=b'{"time_us": 1')
    assert compact(folder.path, NOW).segments == 1
    assert folder.ids() == ["a"]


def test_what_has_expired_is_deleted_and_days_are_kept_apart(folder: Folder) -> None:
    folder.segment("old", expiry_s=NOW)
    folder.segment("today", expiry_s=NOW + 1)
    folder.segment("later", expiry_s=NOW + 3 * DAY_S)
    assert compact(folder.path, NOW).expired == 1
    assert len(folder.names(PARQUET)) == 2
    assert folder.ids() == ["later", "today"]
    compact(folder.path, NOW + 2 * DAY_S)
    assert folder.ids() == ["later"]


class Killed(BaseException):
    """Ends a process at once."""


@pytest.mark.parametrize("step", ["write", "journal", "rename", "unlink"])
def test_a_replacement_that_is_killed_at_any_step_loses_and_doubles_nothing(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    first, second = folder.segment("a"), folder.segment("b")

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    targets: dict[str, tuple[Any, str]] = {
        "write": (compacting, "connect"),
        "journal": (replace.__globals__["json"], "dumps"),
        "rename": (Path, "rename"),
        "unlink": (Path, "unlink"),
    }
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(*targets[step], die)
        compact(folder.path, NOW)
    assert folder.ids() == ["a", "b"]
    compact(folder.path, NOW)
    assert folder.ids() == ["a", "b"]
    assert not first.exists() and not second.exists()
    assert list(folder.path.glob(f"*{JOURNAL}")) == []


def test_a_journal_without_its_file_is_removed_and_its_sources_count(folder: Folder) -> None:
    path = folder.segment("a")
    journal = folder.path / f"{path.name.removesuffix(CLOSED_SEGMENT)}{PARQUET}{JOURNAL}"
    journal.write_text(json.dumps([path.name]))
    assert folder.ids() == ["a"]
    finish(folder.path)
    assert path.exists() and not journal.exists()


def test_a_segment_that_a_worker_deletes_for_room_is_no_failure_and_a_damaged_file_is(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = folder.segment("a")
    folder.segment("b")
    chosen = database.select

    def then_gone(kind: str, paths: list[str]) -> str:
        gone.unlink(missing_ok=True)
        return chosen(kind, paths)

    with monkeypatch.context() as patch:
        patch.setattr(compacting, "select", then_gone)
        assert compact(folder.path, NOW).segments == 0
    assert compact(folder.path, NOW).segments == 1
    [name] = folder.names(PARQUET)
    (folder.path / name).write_bytes(b"damaged")
    with pytest.raises(AnalysisError, match="cannot be read"):
        purge(folder.path, "shop")


def test_one_process_at_a_time_compacts(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.segment("a")
    with exclusive(folder.path / ".compact.lock", "a test"), pytest.raises(ConflictError):
        monkeypatch.setattr(compacting, "LOCK_WAIT_S", 0.0)
        compact(folder.path, NOW)
    assert compact(folder.path, NOW).segments == 1


# ---- purging ---------------------------------------------------------------------------------------------------------


def test_a_client_is_removed_from_every_file_and_nobody_else(folder: Folder) -> None:
    folder.segment("a1", client="shop")
    folder.segment("a2", client="other")
    folder.segment("a3")
    compact(folder.path, NOW)
    folder.segment("b1", "b2", client="shop")
    folder.segment("b3", client="shop", kind=INPUTS)
    folder.segment("b4", client="other", kind=INPUTS)
    assert purge(folder.path, "shop") == {RECORDS: 3, INPUTS: 1}
    assert (folder.ids(), folder.ids(INPUTS)) == (["a2", "a3"], ["b4"])
    assert b"shop" not in b"".join(path.read_bytes() for path in folder.path.iterdir())
    assert purge(folder.path, "shop") == {RECORDS: 0, INPUTS: 0}
    assert purge(folder.path / "missing", "shop") == {}


def test_a_clients_labels_go_with_its_records(folder: Folder, tmp_path: Path) -> None:
    folder.segment("a1", "a2", client="shop")
    folder.segment("b1", client="other")
    labels = tmp_path / "labels"
    for number, names in enumerate((("a1", "b1"), ("a2",), ("b1",))):
        file = tmp_path / f"{number}.csv"
        file.write_text("request_id,label\n" + "".join(f"{name},{number}\n" for name in names))
        add(labels, file)
    assert purge(folder.path, "shop", labels) == {RECORDS: 2, "labels": 2}
    _, rows = query(folder.places, "FROM labels", folders=[str(labels)], label_files=label_files(labels))
    assert [row[:3] for row in rows] == [("b1", 0, "2")]
    assert len(label_files(labels)) == 2, "a file without labels is removed"
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in labels.iterdir())
    assert purge(folder.path, "shop", tmp_path / "missing") == {RECORDS: 0}


def test_labels_are_a_table_beside_the_records_and_the_last_of_several_counts(folder: Folder, tmp_path: Path) -> None:
    folder.segment("a", "b", label="cat")
    labels = tmp_path / "labels"
    _, nothing = query(folder.places, "SELECT r.request_id FROM records r JOIN labels USING (request_id, row)")
    assert nothing == []
    for label in ("dog", "cat"):
        file = tmp_path / "given.csv"
        file.write_text(f"request_id,label\na,{label}\n")
        add(labels, file)
    columns, rows = query(
        folder.places,
        "SELECT r.request_id, l.label, l.label = r.label AS is_right, l.added > TIMESTAMP '2020-01-01' AS is_new"
        " FROM records r JOIN labels l USING (request_id, row)",
        folders=[str(labels)],
        label_files=label_files(labels),
    )
    assert (columns[1], rows) == ("label", [("a", "cat", True, True)])


def test_purging_takes_the_segment_of_a_killed_worker_and_waits_for_one_that_lives(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.segment("a", end=OPEN_SEGMENT, client="shop")
    assert purge(folder.path, "shop") == {RECORDS: 1}
    held = folder.segment("b", end=OPEN_SEGMENT, client="shop")
    monkeypatch.setattr(compacting, "CLOSED_WITHIN_S", 0.0)
    with exclusive(held, "a worker"), pytest.raises(ConflictError, match="kept its segment"):
        purge(folder.path, "shop")


# ---- export ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_an_export_is_written_whole_or_not_at_all(folder: Folder, tmp_path: Path, suffix: str) -> None:
    folder.segment("a", "b")
    target = tmp_path / f"rows.{suffix}"
    assert export(folder.places, "SELECT request_id, score FROM records;", str(target)) == 2
    before = target.read_bytes()
    assert b"request_id" in before
    with pytest.raises(SpecError):
        export(folder.places, "SELECT nothing FROM records", str(target))
    assert target.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["records", target.name]


def test_records_go_to_a_shared_place_and_are_read_from_there(folder: Folder) -> None:
    folder.segment("a", "b")
    compact(folder.path, NOW)
    [name] = folder.names(PARQUET)
    assert export(folder.places, "SELECT * EXCLUDE (node) FROM records", f"memory://shared/one/{name}") == 2
    shared = Place("shared", "memory://shared")
    assert sorted(query([shared], "SELECT request_id FROM records")[1]) == [("a",), ("b",)]


@pytest.mark.parametrize(
    ("to", "reason"),
    [("rows.txt", "must end with"), ("missing/rows.csv", "there is no folder"), ("nope://x/rows.csv", "nope")],
)
def test_a_place_that_cannot_be_written_is_named(folder: Folder, to: str, reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        export(folder.places, "SELECT 1", to)


def test_the_views_stay_readable_while_a_worker_appends(folder: Folder) -> None:
    path = folder.segment("a", end=OPEN_SEGMENT)
    with path.open("ab", buffering=0) as worker, open_records(folder.places) as connection:
        worker.write(json.dumps(line("b")).encode() + b"\n")
        assert connection.execute("SELECT count(*) FROM records").fetchone() == (2,)
