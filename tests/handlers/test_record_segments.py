"""Segments on a real disk: rotated, bounded, closed after a kill, never torn; and the thread that writes them."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from handlers.contract import ASSIGNED_TRACK_HEADER, COPIED_HEADER
from handlers.messages import Outcome, Request
from handlers.record_files import (
    CLOSED_SEGMENT,
    INPUTS,
    OPEN_SEGMENT,
    PARQUET,
    RECORDS,
    REPEATS,
    SEGMENT_BYTES,
    SEGMENT_S,
    RecordFile,
    close_orphans,
    parse_record_file,
    record_files,
)
from handlers.records.record import LONGEST_LINE, Batch, Recording
from handlers.records.recorder import MOST_BYTES, MOST_ITEMS, REST_S, Recorder
from handlers.records.repeats import FULL, Repeats
from handlers.records.segments import LEAST_FREE, SegmentWriter

CHECKOUT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
NOW = 1_764_150_000.0
DAY_S = 86_400.0


@dataclass
class Clock:
    now: float = NOW

    def __call__(self) -> float:
        return self.now


@dataclass
class Disk:
    free: int = 100 << 30
    total: int = 100 << 30

    def __call__(self, folder: Path) -> tuple[int, int]:
        assert folder.is_dir()
        return self.free, self.total


@dataclass
class Place:
    folder: Path
    clock: Clock = field(default_factory=Clock)
    disk: Disk = field(default_factory=Disk)

    def writer(self, kind: str = RECORDS, days: float = 30, most: int = 64 * MIB) -> SegmentWriter:
        return SegmentWriter(self.folder, kind, days, most, self.clock, self.disk)

    def names(self, end: str) -> list[str]:
        return [file.name for file in record_files(self.folder) if file.end == end]

    def lines(self) -> list[bytes]:
        return [line for name in self.names(CLOSED_SEGMENT) for line in (self.folder / name).read_bytes().splitlines()]

    def put(self, file: RecordFile, content: bytes) -> Path:
        path = self.folder / file.name
        path.write_bytes(content)
        return path


@pytest.fixture
def place(tmp_path: Path) -> Place:
    folder = tmp_path / "records"
    folder.mkdir()
    return Place(folder)


def file_of(begin_s: float, end: str, expiry_s: float = NOW + DAY_S, kind: str = RECORDS) -> RecordFile:
    return RecordFile(round(begin_s * 1000), round(expiry_s * 1000), kind, "1_a", end)


# ---- names -----------------------------------------------------------------------------------------------------------


def test_a_name_holds_all_that_deletion_needs_and_foreign_names_are_no_files_of_records() -> None:
    for end in (OPEN_SEGMENT, CLOSED_SEGMENT, PARQUET):
        file = file_of(NOW, end, kind=INPUTS)
        assert parse_record_file(file.name) == file
        assert parse_record_file(f".{file.name}") is None
    for name in (
        "records.jsonl",
        "records-1-2-a.jsonl",
        "notes.txt",
        "records-1764150000000-1764150000000-a.parquet.tmp",
    ):
        assert parse_record_file(name) is None


# ---- rotation --------------------------------------------------------------------------------------------------------


def test_a_segment_is_closed_when_it_is_full_or_old(place: Place) -> None:
    writer = place.writer()
    line = b"x" * (MIB - 1) + b"\n"
    for _ in range(9):
        writer.append(line)
    assert [(place.folder / name).stat().st_size for name in place.names(CLOSED_SEGMENT)] == [SEGMENT_BYTES]
    place.clock.now += SEGMENT_S - 1
    writer.rotate()
    assert len(place.names(OPEN_SEGMENT)) == 1
    place.clock.now += 1
    writer.rotate()
    assert (len(place.names(CLOSED_SEGMENT)), place.names(OPEN_SEGMENT)) == (2, [])
    writer.append(b"later\n")
    writer.close()
    writer.close()
    assert place.lines()[-1] == b"later"


def test_files_and_folder_are_their_owners_alone(tmp_path: Path) -> None:
    made = Place(tmp_path / "made")
    made.folder.parent.mkdir(exist_ok=True)
    made.writer().append(b"a\n")
    [name] = made.names(OPEN_SEGMENT)
    assert made.folder.stat().st_mode & 0o777 == 0o700
    assert (made.folder / name).stat().st_mode & 0o777 == 0o600


def test_workers_write_side_by_side_and_close_only_what_nobody_holds(place: Place) -> None:
    first, second = place.writer(), place.writer()
    first.append(b"1\n")
    second.append(b"2\n")
    assert len(place.names(OPEN_SEGMENT)) == 2
    assert close_orphans(place.folder) == []
    first.close()
    second.close()
    assert sorted(place.lines()) == [b"1", b"2"]


# ---- size, time and space --------------------------------------------------------------------------------------------


def test_the_oldest_files_make_room_and_open_segments_count_as_full(place: Place) -> None:
    old = place.put(file_of(NOW - 300, CLOSED_SEGMENT), b"x" * 30 * MIB)
    newer = place.put(file_of(NOW - 200, PARQUET), b"x" * 20 * MIB)
    foreign = place.folder / "notes.txt"
    foreign.write_bytes(b"x" * 30 * MIB)
    writer = place.writer(most=64 * MIB)
    writer.append(b"a\n")
    assert old.exists()  # 58 MiB with the open one
    other = place.writer(most=64 * MIB)
    other.append(b"b\n")  # 66 MiB
    assert (old.exists(), newer.exists(), foreign.exists()) == (False, True, True)


def test_more_workers_than_the_folder_has_room_for_are_refused(place: Place) -> None:
    writers = [place.writer(most=16 * MIB) for _ in range(3)]
    for writer in writers[:2]:
        writer.append(b"a\n")
    with pytest.raises(OSError, match="open segments of all workers need more than 16 MiB") as raised:
        writers[2].append(b"a\n")
    assert raised.value.errno == errno.ENOSPC
    assert len(place.names(OPEN_SEGMENT)) == 2
    writers[0].close()
    writers[2].append(b"a\n")


def test_what_has_expired_is_deleted_whichever_model_wrote_it(place: Place) -> None:
    expired = place.put(file_of(NOW - DAY_S, CLOSED_SEGMENT, NOW, INPUTS), b"{}\n")
    kept = place.put(file_of(NOW - DAY_S, CLOSED_SEGMENT, NOW + 1), b"{}\n")
    place.writer(days=2).append(b"a\n")
    assert (expired.exists(), kept.exists()) == (False, True)
    [written] = [file for file in record_files(place.folder) if file.end == OPEN_SEGMENT]
    assert written.begin_ms == NOW * 1000
    assert written.expiry_ms == (NOW + SEGMENT_S + 2 * DAY_S) * 1000


@pytest.mark.parametrize("disk", [Disk(LEAST_FREE - 1), Disk(LEAST_FREE, total=LEAST_FREE * 101)])
def test_the_last_of_a_disk_is_left_to_others(place: Place, disk: Disk) -> None:
    place.disk = disk
    writer = place.writer()
    with pytest.raises(OSError, match="of the disk are free"):
        writer.append(b"a\n")
    assert record_files(place.folder) == []
    disk.free, disk.total = LEAST_FREE, LEAST_FREE
    writer.append(b"a\n")
    assert len(place.names(OPEN_SEGMENT)) == 1


def test_a_write_that_the_disk_cuts_short_leaves_no_part_of_a_line(place: Place) -> None:
    writer = place.writer()
    writer.append(b"whole\n")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))  # the kernel writes four bytes more
        with pytest.raises(OSError, match="full"):
            writer.append(b"second\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert place.lines() == [b"whole"]
    writer.append(b"third\n")
    writer.close()
    assert sorted(place.lines()) == [b"third", b"whole"]  # both of one millisecond


@pytest.mark.parametrize("leave", [shutil.rmtree, lambda folder: folder.rename(folder.with_name("elsewhere"))])
def test_a_segment_that_somebody_removed_or_moved_is_not_appended_to(
    place: Place, leave: Callable[[Path], object]
) -> None:
    writer = place.writer()
    writer.append(b"before\n")
    leave(place.folder)
    writer.append(b"after\n")
    writer.append(b"later\n")
    writer.close()
    assert place.lines() == [b"after", b"later"]


# ---- kills -----------------------------------------------------------------------------------------------------------

KILLED = """
import sys, time
from pathlib import Path
from handlers.records.segments import SegmentWriter, free_bytes

writer = SegmentWriter(Path(sys.argv[1]), "records", 30, 1 << 30, time.time, lambda folder: (1 << 40, 1 << 40))
print("ready", flush=True)
number = 0
while True:
    writer.append(b"".join(b'{"number": %d, "fill": "%s"}\\n' % (number + i, b"x" * 500) for i in range(50)))
    number += 50
"""


def test_killed_writers_leave_only_whole_lines_and_others_close_their_segments(place: Place) -> None:
    workers = [
        subprocess.Popen([sys.executable, "-c", KILLED, str(place.folder)], stdout=subprocess.PIPE, cwd=CHECKOUT)
        for _ in range(3)
    ]
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.readline()
    while not place.names(CLOSED_SEGMENT):  # they rotate by size within a second
        assert [worker.poll() for worker in workers] == [None] * 3
    for worker in workers:
        worker.kill()
        worker.communicate()
    assert len(place.names(OPEN_SEGMENT)) <= 3
    place.writer(most=1 << 30).append(b"{}\n")  # as the next worker does
    assert len(place.names(OPEN_SEGMENT)) == 1
    numbers = [json.loads(line)["number"] for line in place.lines()]
    assert len(numbers) > 15_000


@pytest.mark.parametrize(
    ("content", "left"),
    [
        (b'{"a": 1}\n{"b": 2}\n{"c"', b'{"a": 1}\n{"b": 2}\n'),
        (b'{"a": 1}\n', b'{"a": 1}\n'),
        (b'{"a": 1}', None),
        (b"", None),
        (b"1\n" + b"x" * 200_000, b"1\n"),
    ],
    ids=["torn", "whole", "first line torn", "empty", "torn far back"],
)
def test_the_torn_end_of_an_orphan_is_cut_off(place: Place, content: bytes, left: bytes | None) -> None:
    place.put(file_of(NOW, OPEN_SEGMENT), content)
    assert [path.read_bytes() for path in close_orphans(place.folder)] == ([] if left is None else [left])
    assert place.names(OPEN_SEGMENT) == []


def test_a_segment_that_is_held_is_not_closed(place: Place) -> None:
    path = place.put(file_of(NOW, OPEN_SEGMENT), b"{}\n")
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert close_orphans(place.folder) == []
    assert len(close_orphans(place.folder)) == 1


# ---- the recorder ----------------------------------------------------------------------------------------------------


class Recorded:
    """A recorder whose thread is not started: the tests flush it."""

    def __init__(
        self,
        place: Place,
        keeps_inputs: bool = False,
        summarize: Callable[[Any], Any] = lambda item: {},
        redact: Callable[[Any], Any] = lambda item: item,
        inputs: SegmentWriter | None = None,
        repeats: Repeats | None = None,
        repeated: SegmentWriter | None = None,
    ) -> None:
        self.place = place
        self.counts: Counter[str] = Counter()
        self.monotonic = Clock(0.0)
        recording = Recording("toy", "1.0", summarize, str.encode, redact, keeps_inputs)
        inputs = inputs or (place.writer(INPUTS) if keeps_inputs else None)
        writers = place.writer(), inputs
        self.recorder = Recorder(recording, 1.0, *writers, self._count, self.monotonic, repeats, repeated)

    def _count(self, outcome: str, items: int) -> None:
        self.counts[outcome] += items

    def take(self, *bodies: bytes, batch: int = 0) -> None:
        requests = [Request(body, request_id=f"{batch}-{place}") for place, body in enumerate(bodies)]
        outcomes = [Outcome(200, b"1") for _ in bodies]
        items = [body.decode()[:9] for body in bodies]
        batch_of_them = Batch(NOW, 0.1, len(bodies), {})
        wanted = self.recorder.wanted(requests)
        self.recorder.take(wanted, requests, outcomes, range(len(bodies)), items, batch_of_them)

    def ids(self) -> list[str]:
        self.recorder.close()
        return [json.loads(line)["request_id"] for line in self.place.lines()]


def test_sampled_items_are_written_in_order_with_their_own_outcome(place: Place) -> None:
    recorded = Recorded(place)
    recorded.take(b"a", b"b")
    recorded.take(b"c", batch=1)
    assert record_files(place.folder) == []  # nothing is written on the request path
    assert recorded.ids() == ["0-0", "0-1", "1-0"]
    assert recorded.counts == {"written": 3}


def test_a_full_queue_drops_and_counts_and_never_waits(place: Place) -> None:
    recorded = Recorded(place)
    recorded.take(*[b"a"] * (MOST_ITEMS + 5))
    assert recorded.counts == {"queue-full": 5}
    recorded.recorder.flush()
    assert recorded.counts == {"queue-full": 5, "written": MOST_ITEMS}
    large = b"x" * (MOST_BYTES // 2)
    recorded.take(large, large, large)
    assert recorded.counts["queue-full"] == 7
    recorded.recorder.flush()
    recorded.take(large)  # what was written makes room
    assert len(recorded.ids()) == MOST_ITEMS + 2


def test_a_disk_that_fails_is_left_alone_for_some_seconds_and_tried_again(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    recorded = Recorded(place)
    place.disk.free = 0
    for batch in range(3):
        recorded.take(b"a", batch=batch)
        recorded.recorder.flush()
    assert recorded.counts == {"disk-full": 3}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    place.disk.free = place.disk.total
    recorded.take(b"a", batch=3)
    recorded.recorder.flush()
    assert recorded.counts == {"disk-full": 4}
    recorded.monotonic.now += REST_S
    recorded.take(b"a", batch=4)
    assert recorded.ids() == ["4-0"]


def test_a_folder_that_cannot_be_written_is_counted_and_nothing_is_raised(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    recorded = Recorded(Place(tmp_path / "file" / "records"))
    recorded.take(b"a")
    recorded.recorder.close()
    assert recorded.counts == {"unwritable": 1}


def test_an_item_that_cannot_be_summarised_loses_only_its_own_record(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    def summarize(item: str) -> dict[str, float]:
        return {"inverse": 1 / float(item)}

    recorded = Recorded(place, summarize=summarize)
    recorded.take(b"1", b"0", b"0", b"2")
    assert recorded.ids() == ["0-0", "0-3"]
    assert recorded.counts == {"written": 2, "failed": 2}
    assert len(caplog.records) == 1


def test_inputs_lie_in_files_of_their_own(place: Place) -> None:
    recorded = Recorded(place, keeps_inputs=True)
    recorded.take(b"private")
    recorded.recorder.close()
    by_kind = {file.kind: (place.folder / file.name).read_bytes() for file in record_files(place.folder)}
    assert b"private" in by_kind[INPUTS]
    assert b"private" not in by_kind[RECORDS]


def test_a_record_whose_input_cannot_be_kept_is_written_without_it(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    def redact(item: str) -> Any:
        return {"inverse": 1 / float(item), "long": "x" * (LONGEST_LINE if item == "3" else 1)}

    recorded = Recorded(place, keeps_inputs=True, redact=redact)
    recorded.take(b"1", b"0", b"3", b"2")
    recorded.recorder.close()
    ids = {
        kind: [
            json.loads(line)["request_id"]
            for file in record_files(place.folder)
            if file.kind == kind
            for line in (place.folder / file.name).read_text().splitlines()
        ]
        for kind in (RECORDS, INPUTS)
    }
    assert ids == {RECORDS: ["0-0", "0-1", "0-2", "0-3"], INPUTS: ["0-0", "0-3"]}
    assert recorded.counts == {"written": 2, "input-failed": 2}
    assert [record.message for record in caplog.records] == ["toy 1.0: an input cannot be kept; serving goes on"]


def unwritable(tmp_path: Path, kind: str) -> SegmentWriter:
    (tmp_path / "file").write_text("in the way")
    return Place(tmp_path / "file" / "records").writer(kind)


def test_records_are_written_while_inputs_cannot_be(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorded = Recorded(place, keeps_inputs=True, inputs=unwritable(tmp_path, INPUTS))
    for batch in range(2):  # the second one while the inputs' file rests
        recorded.take(b"a", b"b", batch=batch)
        recorded.recorder.flush()
    assert recorded.ids() == ["0-0", "0-1", "1-0", "1-1"]
    assert recorded.counts == {"input-failed": 4}
    assert [each.message for each in caplog.records] == ["toy 1.0: inputs are not kept (unwritable); serving goes on"]


def test_second_answers_that_cannot_be_written_are_counted_and_records_go_on(place: Place, tmp_path: Path) -> None:
    repeats = Repeats(1.0, lambda requests, items: [Outcome(200, b"1") for _ in requests], 1, Clock(0.0))
    recorded = Recorded(place, repeats=repeats, repeated=unwritable(tmp_path, REPEATS))
    headers = {ASSIGNED_TRACK_HEADER: "stable", COPIED_HEADER: "1"}
    requests = [Request(b"a", headers=headers, request_id=f"id-{number}") for number in range(FULL)]
    batch, answers = Batch(NOW, 0.1, FULL, {}), [Outcome(200, b"1")] * FULL
    recorded.recorder.take(range(FULL), requests, answers, range(FULL), ["a"] * FULL, batch)
    recorded.recorder.flush()
    recorded.recorder.answer_again()
    assert recorded.counts == {"written": FULL, "repeat-lost": FULL}
    recorded.take(b"b", batch=1)
    assert len(recorded.ids()) == FULL + 1


def test_the_thread_writes_by_itself(place: Place) -> None:
    written = threading.Event()
    recording = Recording("toy", "1.0", lambda item: {}, str.encode, lambda item: item, keeps_inputs=False)
    writer = place.writer()
    recorder = Recorder(recording, 1.0, writer, None, lambda outcome, items: written.set(), Clock())
    recorder.start()
    recorder.take([0], [Request(request_id="a")], [Outcome(200, b"1")], [0], ["x"], Batch(NOW, 0.1, 1, {}))
    assert written.wait(10)
    recorder.close()
    assert len(place.lines()) == 1
