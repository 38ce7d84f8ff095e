"""`tsctl records` as people call it: which nodes it reads, tables and JSON, errors and exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from handlers.record_files import CLOSED_SEGMENT, RECORDS, RecordFile, record_files
from tsctl.cli.records import app
from tsctl.errors import NodeError, SpecError, TsctlError

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
    assert run("purge", "--client", "two").stdout == "one: removed 0 records\ntwo: removed 1 records\n"
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
