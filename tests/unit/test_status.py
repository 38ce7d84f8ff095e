"""Status rows: served and wanted versions, and the reason for each that is not ready."""

from __future__ import annotations

from dataclasses import replace

from handlers.contract import LoadReport
from tsctl.config.deployment import ModelTarget
from tsctl.deploy.status import VersionRow, rows_of
from tsctl.gateway.traffic import Traffic
from tsctl.nodes.load_reports import last_failures
from tsctl.nodes.observed import ObservedModel, ObservedVersion
from tsctl.views.status import routed_lines


def served(
    ready: int, workers: int, default: str = "1.0", archive: str = "digits-1.0-0123456789ab.mar"
) -> dict[str, ObservedModel]:
    """A node that serves digits 1.0."""
    version = ObservedVersion(archive, workers, ready, tuple(range(100, 100 + ready)), queue=3)
    return {"digits": ObservedModel(default, {"1.0": version})}


def report(version: str, reason: str) -> LoadReport:
    return LoadReport("digits", version, 1, not reason, reason, {})


def only(rows: list[VersionRow]) -> VersionRow:
    [row] = rows
    return row


def test_a_ready_version() -> None:
    row = only(rows_of(served(2, 2), [("digits", "1.0")], last_failures([report("1.0", "")])))
    assert (row.state, row.is_default, row.ready_workers, row.workers) == ("ready", True, 2, 2)
    assert (row.pids, row.queue, row.digest, row.reason) == ((100, 101), 3, "0123456789ab", "")


def test_a_version_whose_workers_are_starting() -> None:
    row = only(rows_of(served(1, 2, default="2.0"), [], {}))
    assert (row.state, row.is_default, row.is_ready) == ("starting", False, False)


def test_a_version_whose_worker_is_given_up_has_failed() -> None:
    models = served(1, 2)
    [version] = models["digits"].versions.values()
    dead = {"digits": ObservedModel("1.0", {"1.0": replace(version, failure="gave up")})}
    row = only(rows_of(dead, [("digits", "1.0")], last_failures([report("1.0", "")])))
    assert (row.state, row.reason, row.is_ready) == ("failed", "gave up", False)
    assert only(rows_of(dead, [], last_failures([report("1.0", "wrong answer")]))).state == "refused"


def test_a_refused_version_has_the_reason_of_its_last_load() -> None:
    reports = [report("1.0", "first"), report("2.0", "other"), report("1.0", "second")]
    row = only(rows_of(served(0, 1), [], last_failures(reports)))
    assert (row.state, row.reason) == ("refused", "second")


def test_a_refusal_before_a_good_load_is_history() -> None:
    row = only(rows_of(served(0, 1), [], last_failures([report("1.0", "x"), report("1.0", "")])))
    assert row.state == "starting"


def test_a_version_without_workers_is_idle_and_not_ready_where_it_is_wanted() -> None:
    row = only(rows_of(served(0, 0), [("digits", "1.0")], {}))
    assert (row.state, row.is_ready) == ("idle", False)
    row = only(rows_of(served(0, 0), [], {}))
    assert (row.state, row.is_ready) == ("idle", True)


def test_a_wanted_version_that_is_not_registered_has_a_row_with_its_reason() -> None:
    rows = rows_of({}, [("digits", "2.0"), ("digits", "1.0")], last_failures([report("2.0", "wrong answer")]))
    assert [(row.version, row.state, row.reason) for row in rows] == [
        ("1.0", "missing", "not registered"),
        ("2.0", "refused", "wrong answer"),
    ]


def test_a_stock_archive_has_no_digest() -> None:
    assert only(rows_of(served(1, 1, archive="resnet.mar"), [], {})).digest is None


def test_what_clients_get_is_said_where_it_is_not_the_default_alone() -> None:
    target = ModelTarget(default="2.0", versions={"1.0": None, "2.0": None})
    rolled_back = Traffic("m", {"2.0": 0, "1.0": 10_000}, canary="2.0")
    [line] = routed_lines([rolled_back], {"m": target})
    assert line == "clients of m get 1.0 100%; default in deployment.yaml: 2.0"
    [line] = routed_lines([Traffic("m", {"1.0": 500, "2.0": 9500})], {"m": target})
    assert line == "clients of m get 2.0 95%, 1.0 5%; default in deployment.yaml: 2.0"
    assert routed_lines([Traffic("m", {"2.0": 10_000}), Traffic("other", {"1.0": 10_000})], {"m": target}) == []
