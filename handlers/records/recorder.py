"""Takes sampled items off the request path, and has a thread write their records.

Invariant: `take` never waits and never raises, and nothing that goes wrong in the thread changes an answer or ends the
worker; what is not written is counted.
"""

from __future__ import annotations

import atexit
import errno
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handlers.contract import INPUT_FAILED, REPEAT_LOST, WRITTEN
from handlers.messages import Outcome, Request
from handlers.record_files import INPUTS, RECORDS, REPEATS
from handlers.records.record import Batch, Recording, Sampled
from handlers.records.repeats import AnswerAgain, Repeats
from handlers.records.sampling import batch_sampler
from handlers.records.segments import SegmentWriter, free_bytes

logger = logging.getLogger(__name__)

#: The most items that wait for the thread, and the most bytes of their bodies.
MOST_ITEMS, MOST_BYTES = 1024, 16 << 20
#: Seconds between two writes; what a killed worker loses.
FLUSH_S = 0.25
#: Seconds for which a worker does not try a disk that failed.
REST_S = 5.0
#: Seconds for which the thread computes before it lets the request path run, which would wait 5 ms by itself. Each
#: time, both threads wait for a core as well: on a machine whose cores are all busy, a pause after every record took a
#: fifth of the requests/s.
SLICE_S = 0.001
#: Bytes that are written at once.
_WRITE = 1 << 18
_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True)
class RecordOptions:
    """The section `records` of archive.yaml."""

    share: float
    days: float
    input_days: float | None = None  # None: inputs are not kept
    answers: bool = False  # whether answers are kept whole
    repeats: float = 1.0  # share of the recorded items with a shadow's copy that stable answers again


class Recorder:
    """Records the items of one worker.

    Args:
        recording: how an item becomes lines.
        share: of the requests that are recorded.
        records: writes records.
        inputs: writes inputs; None: they are not kept.
        count: gets so many items by one of RECORD_OUTCOMES, from any thread.
        clock: seconds of a monotonic clock.
        repeats: has items answered again, and `repeated` writes those answers; None: nothing is answered again.
    """

    def __init__(
        self,
        recording: Recording,
        share: float,
        records: SegmentWriter,
        inputs: SegmentWriter | None,
        count: Callable[[str, int], None],
        clock: Callable[[], float],
        repeats: Repeats | None = None,
        repeated: SegmentWriter | None = None,
    ) -> None:
        self._recording = recording
        self._sampled = batch_sampler(share)
        self._records = records
        self._inputs = inputs
        self._count = count
        self._clock = clock
        self._repeats, self._repeated = repeats, repeated
        self._queue: deque[Sampled] = deque()
        self._put = self._got = 0  # bytes; each changed by one thread alone, so that neither waits for a lock
        self._writing = threading.Lock()
        self._logged: set[str] = set()
        self._rests: dict[int, tuple[float, str]] = {}  # by writer: until when it rests, and why

    def start(self) -> None:
        """Write from now on, in a thread; at the process's own end the segments are closed."""
        threading.Thread(target=self._keep_writing, name="records", daemon=True).start()
        atexit.register(self.close)

    def wanted(self, requests: Sequence[Request]) -> list[int]:
        """The places of the requests that are recorded, in ascending order."""
        return self._sampled([request.request_id for request in requests])

    def take(
        self,
        wanted: Sequence[int],
        requests: Sequence[Request],
        outcomes: Sequence[Outcome],
        indices: Sequence[int],
        items: Sequence[Any],
        batch: Batch,
    ) -> None:
        """Take the sampled items of a batch.

        Args:
            wanted: places of the sampled requests.
            outcomes: one for each request.
            indices: positions of the requests that were validated, ascending.
            items: their validated items.
        """
        validated = dict(zip(indices, items, strict=True))
        for place in wanted:
            sampled = Sampled(requests[place], validated.get(place), outcomes[place], batch)
            size = sampled.size
            if len(self._queue) >= MOST_ITEMS or self._put - self._got + size > MOST_BYTES:
                self._count("queue-full", 1)
                continue
            self._put += size
            self._queue.append(sampled)

    def flush(self) -> None:
        """Write what waits; called by the thread, by tests, and when the process ends."""
        with self._writing:
            for writer in self._writers:
                writer.rotate()
            while self._queue:
                self._write_some()

    def answer_again(self) -> None:
        """Have the items answered again whose turn it is, and write the answers; called by the thread, and by tests.

        The model computes without the lock of the files: a worker that ends may write its records meanwhile.
        """
        if self._repeats is None or self._repeated is None:
            return
        lines = [self._recording.repeat(*again) for again in self._repeats.due()]
        if lines:
            with self._writing:
                if self._append(self._repeated, lines, "second answers are lost") != WRITTEN:
                    self._count(REPEAT_LOST, len(lines))

    def close(self) -> None:
        """Write what waits, and close the segments."""
        self.flush()
        with self._writing:
            for writer in self._writers:
                try:
                    writer.close()
                except OSError as error:
                    self._log("closing a segment failed", error)

    @property
    def _writers(self) -> list[SegmentWriter]:
        return [writer for writer in (self._records, self._inputs, self._repeated) if writer is not None]

    def _keep_writing(self) -> None:
        while True:
            time.sleep(FLUSH_S)
            try:
                self.flush()
                self.answer_again()
            except Exception as error:  # noqa: BLE001 - logged: without this thread, the queue would stay full
                self._log("writing records failed", error)

    def _write_some(self) -> None:
        """Write the next items: as many as fit into one write."""
        lines: list[bytes] = []
        inputs: list[bytes] = []
        size, begin, without_input = 0, self._clock(), 0
        while self._queue and size < _WRITE:
            sampled = self._queue.popleft()
            self._got += sampled.size
            try:
                line = self._recording.record(sampled)
            except Exception as error:  # noqa: BLE001 - an author's methods may raise anything, and only this is lost
                self._count("failed", 1)
                self._log("an item cannot be recorded", error)
                continue
            try:
                of_input = self._recording.input(sampled)
            except Exception as error:  # noqa: BLE001 - likewise: the record is kept without its input
                of_input, without_input = b"", without_input + 1
                self._log("an input cannot be kept", error)
            lines.append(line)
            if self._repeats is not None:
                self._repeats.take(sampled)
            inputs += [of_input] if of_input else []
            size += len(line) + len(of_input)
            if self._clock() - begin >= SLICE_S:
                time.sleep(0)  # lets the request path run
                begin = self._clock()
        if not lines:
            return
        outcome = self._append(self._records, lines, "records are dropped")
        if outcome != WRITTEN:
            self._count(outcome, len(lines))
            return
        if self._inputs is not None and inputs and self._append(self._inputs, inputs, "inputs are not kept") != WRITTEN:
            without_input += len(inputs)
        if without_input:
            self._count(INPUT_FAILED, without_input)
        if len(lines) > without_input:
            self._count(WRITTEN, len(lines) - without_input)

    def _append(self, writer: SegmentWriter, lines: Sequence[bytes], loss: str) -> str:
        """Write the lines; returns the one of RECORD_OUTCOMES that became of them.

        Args:
            loss: what happens where they are not written, for the log.
        """
        rests_until, failure = self._rests.get(id(writer), (-math.inf, ""))
        if self._clock() < rests_until:
            return failure
        try:
            writer.append(b"".join(lines))
            return WRITTEN
        except OSError as error:
            failure = "disk-full" if error.errno in _FULL else "unwritable"
            self._rests[id(writer)] = self._clock() + REST_S, failure
            self._log(f"{loss} ({failure})", error)
            return failure

    def _log(self, text: str, error: Exception) -> None:
        """The first failure of each kind is logged; all are counted."""
        if text not in self._logged:
            self._logged.add(text)
            logger.warning(
                "%s %s: %s; serving goes on", self._recording.model, self._recording.version, text, exc_info=error
            )


def open_recorder(
    options: RecordOptions,
    recording: Recording,
    folder: Path,
    most_bytes: int,
    count: Callable[[str, int], None],
    answer: AnswerAgain,
    batch_size: int,
) -> Recorder:
    """A recorder that writes into the folder; it is not started.

    Args:
        answer: has the model answer items again.
        batch_size: the most items of its batches.
    """

    def writer(kind: str, days: float) -> SegmentWriter:
        return SegmentWriter(folder, kind, days, most_bytes, time.time, free_bytes)

    inputs = None if options.input_days is None else writer(INPUTS, options.input_days)
    repeats = Repeats(options.share * options.repeats, answer, batch_size) if options.repeats else None
    repeated = writer(REPEATS, options.days) if repeats else None
    records = writer(RECORDS, options.days)
    return Recorder(recording, options.share, records, inputs, count, time.monotonic, repeats, repeated)
