"""`tsctl records` as people call it: which nodes it reads, tables and JSON, errors and exit codes."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from handlers.record_files import CLOSED_SEGMENT, RECORDS, RecordFile, record_files
from tsctl.cli.records import MOST_SHOWN, app
from tsctl.errors import NodeError, SpecError, TsctlError
from tsctl.records import labels
from tsctl.records.database import stream

DEPLOYMENT = """
nodes:
  one: {inference: "http://127.0.0.1:18080", management: "http://127.0.0.1:18081", metrics: "http://127.0.0.1:18082",
        grpc_ports: [17070, 17071]}
  two: {engine: uvicorn, address: "http://127.0.0.1:18090"}
  far: {engine: uvicorn, address: "http://192.0.2.1:18090", key_file: far.json}
models: {}
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    (tmp_path / "deployment.yaml").write_text(DEPLOYMENT)
    (tmp_path / "archives").mkdir()
    monkeypatch.setenv("TSCTL_PROJECT", str(tmp_path))
    for node, names in {"one": ("a", "b"), "two": ("c",)}.items():
        folder = tmp_path / ".tsctl" / "nodes" / node / "records"
        folder.mkdir(parents=True)
        lines = [record(name, number, node) for number, name in enumerate(names)]
        file = RecordFile(1764150000000, 9_999_999_999_999, RECORDS, "w1", CLOSED_SEGMENT)
        (folder / file.name).write_text("".join(json.dumps(line) + "\n" for line in lines))

    def invoke(*arguments: str) -> Result:
        result = CliRunner().invoke(app, list(arguments), catch_exceptions=True)
        if isinstance(result.exception, TsctlError):
            raise result.exception
        return result

    return invoke


def record(name: str, number: int, client: str) -> dict[str, Any]:
    identity = {"request_id": name, "row": 0, "model": "toy", "version": "1.0", "client": client}
    return {**identity, "time_us": 1764150000000000 + number, "status": 200, "score": 0.5, "batch_ms": 1.5}


def documents(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_all_nodes_of_this_machine_are_read_or_the_named_one(run: Callable[..., Result]) -> None:
    sql = "SELECT node, count(*) AS n FROM records GROUP BY node ORDER BY node"
    assert documents(run("query", sql, "--json")) == [{"node": "one", "n": 2}, {"node": "two", "n": 1}]
    assert documents(run("query", sql, "--json", "--node", "two")) == [{"node": "two", "n": 1}]
    with pytest.raises(NodeError, match="no such node is on this machine"):
        run("query", sql, "--node", "far")
    with pytest.raises(SpecError, match="contradict each other"):
        run("query", sql, "--node", "one", "--from", ".")
    with pytest.raises(SpecError, match="no such folder"):
        run("query", sql, "--from", "missing")


def test_tail_shows_the_last_records_the_newest_below(run: Callable[..., Result]) -> None:
    rows = documents(run("tail", "-n", "1", "--json", "--node", "one"))
    assert [(row["request_id"], row["time"]) for row in rows] == [("b", "2025-11-26 09:40:00.000001")]
    table = run("tail", "toy").stdout.splitlines()
    assert table[0].split()[:3] == ["TIME", "REQUEST_ID", "MODEL"]
    assert len(table) == 4
    assert run("tail", "other", "--json").stdout.strip() == "[]"


def test_stats_count_by_version_and_track(run: Callable[..., Result]) -> None:
    [row] = documents(run("stats", "--json"))
    assert row.items() >= {"model": "toy", "version": "1.0", "records": 3, "clients": 2, "errors": 0.0}.items()
    assert row["p50_ms"] == 1.5


def test_compact_and_purge_say_what_they_did(run: Callable[..., Result], tmp_path: Path) -> None:
    assert run("compact").stdout == (
        "one: 1 segment into 1 file, 0 files expired\ntwo: 1 segment into 1 file, 0 files expired\n"
    )
    assert run("purge", "--client", "two").stdout == (
        "one: nothing was recorded of client two\ntwo: removed 1 records\n"
    )
    assert record_files(tmp_path / ".tsctl" / "nodes" / "two" / "records") == []


def test_an_export_goes_to_a_folder_of_any_name(run: Callable[..., Result], tmp_path: Path) -> None:
    folder = tmp_path / "Ada's rows"
    folder.mkdir()
    result = run("export", "--to", str(folder / "rows.csv"), "--query", "SELECT request_id FROM records ORDER BY 1")
    assert result.exit_code == 0, result.stderr
    assert (folder / "rows.csv").read_text().split() == ["request_id", "a", "b", "c"]


def test_an_export_names_its_rows(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run("export", "--to", str(tmp_path / "rows.csv"), "--query", "SELECT request_id FROM records ORDER BY 1")
    assert result.stdout == f"3 rows in {tmp_path / 'rows.csv'}\n"
    assert (tmp_path / "rows.csv").read_text().split() == ["request_id", "a", "b", "c"]


def test_an_export_has_labels_and_may_end_in_a_comment(run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("request_id,label\na,cat\n")
    labels.add(tmp_path / ".tsctl" / "labels", tmp_path / "l.csv")
    sql = "SELECT r.request_id, l.label FROM records r JOIN labels l USING (request_id) WHERE l.label <> 'ü; -- none'"
    for number, end in enumerate(("", " -- all", ";", "; -- üll;", " /* all */ ;\n", "\n--")):
        to = tmp_path / f"rows{number}.csv"
        result = run("export", "--to", str(to), "--query", sql + end)
        assert result.exit_code == 0, result.output
        assert to.read_text().split() == ["request_id,label", "a,cat"]


CELLS = {
    "[TIMESTAMP '2026-01-01 10:00:00']": ["2026-01-01 10:00:00"],
    "{'at': DATE '2026-01-01', 'n': [1.50]}": {"at": "2026-01-01", "n": [1.5]},
    "MAP {DATE '2026-01-01': 0.5}": {"2026-01-01": 0.5},
    "0.5": 0.5,
    "12345678901234567890.123": "12345678901234567890.123",
    "'NaN'::DOUBLE": None,
    "['Infinity'::DOUBLE, 1.0::DOUBLE]": [None, 1.0],
    "'6BA7B810-9DAD-11D1-80B4-00C04FD430C8'::UUID": "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
    "'a'::BLOB": "61",
    "INTERVAL 1 DAY": "1 day, 0:00:00",
    "170141183460469231731687303715884105727::HUGEINT": 170141183460469231731687303715884105727,
    "NULL": None,
}


@pytest.mark.parametrize("cell", CELLS)
def test_every_value_is_json(run: Callable[..., Result], cell: str) -> None:
    result = run("query", f"SELECT {cell} AS x", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout, parse_constant=lambda name: pytest.fail(name)) == [{"x": CELLS[cell]}]
    assert run("query", f"SELECT {cell} AS x").exit_code == 0


def test_a_table_has_its_first_rows_and_json_has_all(run: Callable[..., Result]) -> None:
    sql = "SELECT i FROM range(1500) t(i)"
    table = run("query", sql)
    assert len(table.stdout.splitlines()) == MOST_SHOWN + 1
    assert f"{1500 - MOST_SHOWN} more rows not shown" in table.stderr
    rows = documents(run("query", sql, "--json"))
    assert rows == [{"i": number} for number in range(1500)]
    assert run("query", "SELECT 1 AS i WHERE false", "--json").stdout == "[]\n"
    assert run("query", "SELECT 1 AS i", "--json").stdout == json.dumps([{"i": 1}], indent=2) + "\n"


def test_a_large_result_takes_little_memory(run: Callable[..., Result]) -> None:
    sql = "SELECT i, repeat('x', 100) AS text FROM range(2000000) t(i)"
    with stream([], sql) as (_, rows):
        tracemalloc.start()
        count = sum(1 for _ in rows)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert count == 2_000_000
    assert most < 16 << 20


def test_a_query_that_fails_after_its_first_rows_is_an_error(run: Callable[..., Result]) -> None:
    sql = "SELECT CASE WHEN i < 1000000 THEN i ELSE error('late') END AS i FROM range(2000000) t(i)"
    with pytest.raises(SpecError, match="late"), stream([], sql) as (_, rows):
        list(islice(rows, 2_000_000))
