"""What `tsctl status` says of prediction records: counts of all workers, and the size of the files."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from handlers.contract import RECORDED_ITEMS
from handlers.record_files import CLOSED_SEGMENT, RECORDS, RecordFile
from tsctl.monitoring.recorded import Recorded, read_recorded
from tsctl.views.status import records_line

MIB = 1 << 20


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    folder = tmp_path / "metrics"
    folder.mkdir()
    return folder


def counted(folder: Path, pid: int, **outcomes: int) -> None:
    """A worker's counts."""
    file = MmapedDict(str(folder / f"counter_{pid}.db"))
    for outcome, count in outcomes.items():
        labels = {"model": "toy", "version": "1.0", "outcome": outcome.replace("_", "-")}
        name = RECORDED_ITEMS.removesuffix("_total")
        file.write_value(mmap_key(name, RECORDED_ITEMS, list(labels), list(labels.values()), ""), float(count), 0.0)
    file.close()


def test_the_counts_of_all_workers_and_the_size_of_all_files_are_added_up(metrics: Path, tmp_path: Path) -> None:
    records = tmp_path / "records"
    counted(metrics, 3, written=0, queue_full=0)
    assert read_recorded(metrics, records, 64 * MIB) is None, "nothing was ever recorded"
    records.mkdir()
    (records / RecordFile(1, 2, RECORDS, "w1", CLOSED_SEGMENT).name).write_bytes(bytes(MIB // 2))
    (records / "notes.txt").write_bytes(bytes(MIB))
    counted(metrics, 1, written=1_200, disk_full=3)
    counted(metrics, 2, written=1, disk_full=1, queue_full=2)
    found = read_recorded(metrics, records, 64 * MIB)
    assert found == Recorded(1_201, {"queue-full": 2, "disk-full": 4}, MIB // 2, 64 * MIB)
    assert records_line(found) == (
        "records since the node's start: 1,201 written, 6 dropped (2 queue-full, 4 disk-full);"
        " 0.5 of 64 MiB on the disk"
    )


def test_a_record_without_its_input_is_written_and_a_second_answer_is_no_record(metrics: Path, tmp_path: Path) -> None:
    counted(metrics, 1, written=10, input_failed=5, repeat_lost=3)
    found = read_recorded(metrics, tmp_path / "records", 64 * MIB)
    assert found == Recorded(15, {}, 0, 64 * MIB, without_input=5, repeats_lost=3)
    assert records_line(found).startswith(
        "records since the node's start: 15 written (5 without their input), 3 second answers lost;"
    )


def test_a_folder_that_cannot_be_read_is_said_and_hides_no_counts(metrics: Path, tmp_path: Path) -> None:
    counted(metrics, 1, unwritable=5)
    (metrics / "counter_2.db").write_bytes(b"\xff\x00\x00\x00\x00\x00\x00")
    (tmp_path / "records").write_text("a file in the way")
    found = read_recorded(metrics, tmp_path / "records", 64 * MIB)
    assert found is not None
    assert found.dropped == {"unwritable": 5}
    line = records_line(found)
    assert "0 written, 5 dropped (5 unwritable)" in line
    assert "records cannot be read: Not a directory" in line
    assert "counter_2.db cannot be read and is left out" in line
