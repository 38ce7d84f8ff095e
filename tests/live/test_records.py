"""Prediction records of real nodes: through Envoy on each engine, and while folder and worker are attacked."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from handlers.contract import REQUEST_ID_HEADER
from handlers.record_files import CLOSED_SEGMENT, OPEN_SEGMENT, RECORDS, SEGMENT_BYTES, RecordFile, record_files
from handlers.records.recorder import REST_S
from handlers.records.sampling import sampler
from tests.support.engines import give_engine
from tests.support.gateways import Front, brought_up, with_gateway
from tests.support.ports import free_ports
from tests.support.recording import ask_node
from tests.support.sites import Site, make_site, until, write_tiny
from tsctl.nodes.environments import ENGINES

MIB = 1 << 20
SHARE = 0.5
#: The least that `records_mb` may be.
MOST_MB = 64
#: Later than any test runs, and long ago.
LATER_MS, EARLIER_MS = 9_999_999_999_999, 1_600_000_000_000


def engine_of(site: Site, engine: str, **node: Any) -> None:
    """The site's only node is of this engine."""
    if engine in ENGINES:
        give_engine(site, engine)
    content = site.deployment
    if engine == "torchserve":
        content["nodes"]["local"].update(node)
    else:
        [port] = free_ports(1)
        content["nodes"]["local"] = {"engine": engine, "address": f"http://127.0.0.1:{port}", **node}
    (site.root / "deployment.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def rows(site: Site, sql: str) -> list[dict[str, Any]]:
    """The rows of `tsctl records query`."""
    found: list[dict[str, Any]] = site.run("records", "query", sql, "--json").json()
    return found


def wait_for_records(site: Site, count: int, where: str = "true") -> None:
    """Workers write four times a second."""
    sql = f"SELECT count(*) AS n FROM records WHERE {where}"  # noqa: S608
    until(lambda: rows(site, sql)[0]["n"] >= count, 30, f"{count} records where {where}")


# ---- through the gateway --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["torchserve", "uvicorn", "triton", "bentoml"])
def test_two_versions_behind_the_gateway_record_the_same_requests_each_with_its_own_facts(
    engine: str, tmp_path: Path
) -> None:
    site = make_site(tmp_path / "site")
    engine_of(site, engine)
    write_tiny(
        site, "tiny", {"1.0": {}, "2.0": {"factor": 3.0}}, records={"share": SHARE}, cache={"max_mb": 4, "ttl_s": 60}
    )
    site.deploy({"tiny": {"default": "1.0", "versions": {"1.0": {"workers": 1}, "2.0": {"workers": 1}}}})
    base, metrics = with_gateway(site, {})
    with brought_up(site, base, metrics) as front:
        site.run("shadow", "set", "tiny", "2.0", "--percent", "100")
        names = [f"request-{number}" for number in range(24)]
        took_ms = {name: ask(front, name, x=float(number % 6)) for number, name in enumerate(names)}
        sampled = list(filter(sampler(SHARE), names))
        assert 4 < len(sampled) < 20
        wait_for_records(site, 2 * len(sampled))
        records = rows(site, "SELECT * FROM records ORDER BY version, time")
    by_version = {version: [row for row in records if row["version"] == version] for version in ("1.0", "2.0")}
    assert [row["request_id"] for row in by_version["1.0"]] == sampled
    assert sorted(row["request_id"] for row in by_version["2.0"]) == sorted(sampled)
    for row in records:
        x = float(names.index(row["request_id"]) % 6)
        assert row["outputs"] == {"y": x * (2.0 if row["version"] == "1.0" else 3.0)}
        assert row["numbers"] == {"x": x}
        assert (row["node"], row["model"], row["status"], row["row"]) == ("local", "tiny", 200, 0)
        assert row["chosen_by"] == "weight"
        assert row["track"] == ("stable" if row["version"] == "1.0" else "shadow")
        assert row["client"] == "local"
        assert row["wait_ms"] is not None and row["wait_ms"] > -1
        assert row["batch_items"] >= 1  # copies are sent without waiting for the one before
        if row["track"] == "stable":  # one request after the other: the first of each input is computed
            assert row["batch_items"] == 1
            is_first = names.index(row["request_id"]) < 6
            assert row["cache"] == ("miss" if is_first else "hit"), row["request_id"]
            assert 0 < row["batch_ms"] <= took_ms[row["request_id"]]
            if is_first:
                assert 0 < row["inference_ms"] <= row["batch_ms"]
        assert len({other["input_digest"] for other in records if other["numbers"] == row["numbers"]}) == 1


def ask(front: Front, name: str, x: float) -> float:
    """Ask the model through the gateway; milliseconds until the answer was there."""
    begin = time.monotonic()
    answer = front.ask("/predictions/tiny", json.dumps({"x": x}).encode(), **{REQUEST_ID_HEADER: name})
    assert (answer.status_code, answer.json(), answer.headers[REQUEST_ID_HEADER]) == (200, {"y": 2 * x}, name)
    return (time.monotonic() - begin) * 1000


# ---- attacks --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["torchserve", "uvicorn"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A node that records every request, in at most 64 MiB."""
    made = make_site(tmp_path_factory.mktemp("records") / "site")
    engine_of(made, request.param, records_mb=MOST_MB)
    write_tiny(made, "tiny", {"1.0": {}}, records={"share": 1.0})
    made.deploy({"tiny": {"default": "1.0", "versions": {"1.0": {"workers": 1}}}})
    made.run("up")
    yield made
    made.run("down")


class Client:
    """Asks the node directly, and names each request."""

    def __init__(self, site: Site) -> None:
        self.site, self.folder = site, site.folder / "records"

    def ask(self, name: str, client: str = "shop") -> str:
        """The node answers; returns the name."""
        return ask_node(self.site, name, client)

    def names(self) -> set[str]:
        """Requests with a record; each has one."""
        found = [row["request_id"] for row in rows(self.site, "SELECT request_id FROM records")]
        assert len(found) == len(set(found))
        return set(found)

    def recorded(self, name: str) -> None:
        """Wait for the record of this request, or of a later one with the same begin of its name."""
        until(lambda: any(each.startswith(name) for each in self.names()), 30, f"a record of {name}")

    def kill_worker(self) -> int:
        """Kill the worker, and wait for another one; the pid of the killed one."""
        [before] = self._pids
        os.kill(before, signal.SIGKILL)
        until(lambda: self._pids not in ([], [before]), 60, "another worker")
        return int(before)

    @property
    def _pids(self) -> list[int]:
        """Pids of the READY workers."""
        [row] = self.site.run("status", "--json", status=None).json()["versions"]
        return list(row["pids"]) if row["ready_workers"] else []

    @property
    def status(self) -> str:
        """What `tsctl status` says of records."""
        lines = self.site.run("status").out.splitlines()
        return next((line for line in lines if line.startswith("records since")), "")


@pytest.fixture
def client(whole: Site) -> Client:
    return Client(whole)


def test_records_go_on_in_a_folder_that_was_removed_while_a_segment_was_open(client: Client) -> None:
    client.ask("removed-before")
    client.recorded("removed-before")
    shutil.rmtree(client.folder)
    client.ask("removed-after")
    client.recorded("removed-after")
    assert "dropped" not in client.status
    assert client.names() == {"removed-after"}


def test_what_cannot_be_written_is_counted_and_serving_goes_on(client: Client) -> None:
    shutil.rmtree(client.folder, ignore_errors=True)
    client.folder.write_text("a file in the way")
    client.ask("unwritable")
    until(lambda: "1 unwritable" in client.status, 30, "a dropped record in the status")
    page = client.site.run("metrics", "show", "--raw").out
    assert re.search(r'tsctl_worker_records_total{[^}]*outcome="unwritable"[^}]*} 1.0', page)
    client.folder.unlink()
    # a worker that failed rests for some seconds, and then tries again
    until(lambda: client.ask(f"writable-{time.monotonic_ns()}") and client.names(), REST_S + 30, "records")
    assert not any(name.startswith("unwritable") for name in client.names())


def test_a_full_folder_drops_records_and_not_answers_and_a_worker_makes_room_when_it_can(client: Client) -> None:
    shutil.rmtree(client.folder, ignore_errors=True)
    client.folder.mkdir(mode=0o700)
    expired = client.folder / RecordFile(EARLIER_MS, EARLIER_MS + 1, RECORDS, "old", CLOSED_SEGMENT).name
    oldest = client.folder / RecordFile(EARLIER_MS, LATER_MS, RECORDS, "oldest", CLOSED_SEGMENT).name
    expired.write_bytes(b"{}\n")
    with oldest.open("wb") as file:
        file.truncate(SEGMENT_BYTES)
    with ExitStack() as stack:  # the open segments of other workers, which may all become full
        for number in range(MOST_MB * MIB // SEGMENT_BYTES):
            path = client.folder / RecordFile(EARLIER_MS + number, LATER_MS, RECORDS, f"o{number}", OPEN_SEGMENT).name
            held = stack.enter_context(path.open("wb"))
            fcntl.flock(held, fcntl.LOCK_EX)
        client.ask("full")
        until(lambda: "disk-full" in client.status, 30, "a dropped record in the status")
        assert f"of {MOST_MB} MiB on the disk" in client.status
        assert not expired.exists(), "what has expired is deleted, also for want of room"
        assert not oldest.exists(), "the oldest closed file is deleted first"
    until(lambda: client.ask(f"room-{time.monotonic_ns()}") and client.names(), REST_S + 30, "records")


def test_a_killed_worker_loses_only_what_it_had_not_written_and_another_closes_its_segment(client: Client) -> None:
    client.ask("killed-before")
    client.recorded("killed-before")
    worker = client.kill_worker()
    client.ask("killed-after")
    client.recorded("killed-after")
    assert "killed-before" in client.names()
    written = [file for file in record_files(client.folder) if f"-{worker}_" in file.name]
    assert [file.end for file in written] == [CLOSED_SEGMENT]


def test_a_client_is_purged_while_the_node_serves_with_its_labels_and_nobody_else(client: Client) -> None:
    for name, whose in (("purged-a", "leaving"), ("purged-b", "staying")):
        client.ask(name, whose)
        client.recorded(name)
    site = client.site
    site.run("records", "compact")
    (site.root / "labels.csv").write_text("request_id,label\npurged-a,good\npurged-b,good\n")
    site.run("labels", "add", "labels.csv")
    client.kill_worker()  # its segment can be closed at once; that of a living worker within a minute
    purged = site.run("records", "purge", "--client", "leaving")
    assert purged.out == "local: removed 1 labels, 1 records\n"
    assert "not removed: files that were exported" in purged.err
    names = client.names()
    assert "purged-b" in names and "purged-a" not in names
    assert [row["request_id"] for row in rows(site, "SELECT request_id FROM labels")] == ["purged-b"]
    left = [path for path in (site.root / ".tsctl").rglob("*") if path.is_file() and b"leaving" in path.read_bytes()]
    assert [path for path in left if path.parent in (client.folder, site.root / ".tsctl" / "labels")] == []
    client.ask("purged-later")
