"""TorchServe's snapshots: the newest whole one counts, and a half-written one is passed over."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tsctl.errors import NodeError
from tsctl.nodes.torchserve.properties import render_properties
from tsctl.nodes.torchserve.served import (
    KEPT_SNAPSHOTS,
    ServedVersion,
    forget,
    last_served,
    merge,
    parse_snapshot,
    prune_snapshots,
    read_pending,
    write_pending,
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


def test_the_order_of_snapshots_does_not_follow_the_time_zone_of_their_names(tmp_path: Path) -> None:
    content = {"20260101130000000": {}, "20260101120000000": {"digits": {"1.0": STATE}}}  # the zone changed in between
    for age, (name, models) in enumerate(content.items()):
        (tmp_path / f"{name}-snapshot.cfg").write_text(snapshot(models))
        os.utime(tmp_path / f"{name}-snapshot.cfg", (1000 + age, 1000 + age))
    assert last_served(tmp_path) == [SERVED]
    for number in range(KEPT_SNAPSHOTS - 1):
        (tmp_path / f"2025{number:013d}-snapshot.cfg").write_text(snapshot({}))
    prune_snapshots(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("2026*")) == ["20260101120000000-snapshot.cfg"]


def test_no_snapshot_means_that_nothing_was_served(tmp_path: Path) -> None:
    assert last_served(tmp_path / "none") == []


def test_old_snapshots_are_removed(tmp_path: Path) -> None:
    for number in range(KEPT_SNAPSHOTS + 3):
        (tmp_path / f"202601010000{number:05d}-snapshot.cfg").write_text("")
    prune_snapshots(tmp_path)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == KEPT_SNAPSHOTS
    assert left[0] == "20260101000000003-snapshot.cfg"


def test_what_is_pending_is_read_back_forgotten_one_by_one_and_gone_at_last(tmp_path: Path) -> None:
    path = tmp_path / "node" / "restore.json"
    other = replace(SERVED, version="2.0", is_default=False)
    write_pending(path, [SERVED, other])
    assert read_pending(path) == [SERVED, other]
    forget(path, "digits", "1.0")
    forget(path, "digits", "9.9")
    assert read_pending(path) == [other]
    forget(path, "digits", "2.0")
    assert list(path.parent.iterdir()) == []
    assert read_pending(path) == []


@pytest.mark.parametrize("damaged", ["", "[{", '[{"model": "a"}]', "[1]"])
def test_a_damaged_list_is_named(tmp_path: Path, damaged: str) -> None:
    (tmp_path / "restore.json").write_text(damaged)
    with pytest.raises(NodeError, match=r"restore\.json is damaged"):
        read_pending(tmp_path / "restore.json")


def test_what_had_not_come_back_is_added_with_its_default() -> None:
    first, second = replace(SERVED, is_default=True), replace(SERVED, version="2.0", is_default=False)
    assert merge([first, second], []) == [first, second]
    assert merge([], [first]) == [first]
    missing = replace(SERVED, version="3.0", is_default=True)
    assert merge([first, second], [missing]) == [replace(first, is_default=False), second, missing]
    assert merge([first], [replace(first, min_workers=9)]) == [first], "what it served last counts"
