"""TorchServe's snapshots: the newest whole one counts, and a half-written one is passed over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tsctl.node.properties import render_properties
from tsctl.node.snapshot import (
    KEPT_SNAPSHOTS,
    ServedVersion,
    dump_served,
    last_served,
    load_served,
    parse_snapshot,
    prune_snapshots,
)

STATE = {"defaultVersion": True, "marName": "digits-1.0-0123456789ab.mar", "minWorkers": 2, "maxWorkers": 3}
SERVED = ServedVersion("digits", "1.0", "digits-1.0-0123456789ab.mar", True, 2, 3)


def snapshot(models: dict[str, Any], count: int | None = None) -> str:
    counted = sum(len(versions) for versions in models.values()) if count is None else count
    return render_properties({"port": "1", "model_snapshot": json.dumps({"modelCount": counted, "models": models})})


def test_a_snapshot_tells_versions_defaults_and_workers() -> None:
    second = {**STATE, "defaultVersion": False, "marName": "digits-2.0-ba9876543210.mar"}
    served = parse_snapshot(snapshot({"digits": {"2.0": second, "1.0": STATE}}))
    assert served == [SERVED, ServedVersion("digits", "2.0", "digits-2.0-ba9876543210.mar", False, 2, 3)]


def test_a_snapshot_that_counts_more_than_it_holds_is_refused() -> None:
    with pytest.raises(ValueError, match="counts 2"):
        parse_snapshot(snapshot({"digits": {"1.0": STATE}}, count=2))


def test_the_newest_whole_snapshot_counts(tmp_path: Path) -> None:
    (tmp_path / "20260101000000000-snapshot.cfg").write_text(snapshot({}))
    (tmp_path / "20260101000000001-snapshot.cfg").write_text(snapshot({"digits": {"1.0": STATE}}))
    (tmp_path / "20260101000000002-snapshot.cfg").write_text(snapshot({"digits": {"1.0": STATE}})[:-40])
    (tmp_path / "20260101000000003-shutdown.cfg").write_text("")
    (tmp_path / "notes.cfg").write_text(snapshot({}))
    assert last_served(tmp_path) == [SERVED]


def test_no_snapshot_means_that_nothing_was_served(tmp_path: Path) -> None:
    assert last_served(tmp_path / "none") == []


def test_old_snapshots_are_removed(tmp_path: Path) -> None:
    for number in range(KEPT_SNAPSHOTS + 3):
        (tmp_path / f"202601010000{number:05d}-snapshot.cfg").write_text("")
    prune_snapshots(tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == KEPT_SNAPSHOTS
    assert left[0] == "20260101000000003-snapshot.cfg"


def test_a_pending_restore_is_read_back() -> None:
    assert load_served(dump_served([SERVED])) == [SERVED]
