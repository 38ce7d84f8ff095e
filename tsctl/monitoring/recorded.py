"""How many prediction records a node's workers wrote and dropped, and how much of its disk the files have.

Counts are of all workers since the node's start, as they write them into their metrics; a version whose metrics are off
has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from handlers.contract import DROPPED_RECORDS, INPUT_FAILED, RECORDED_ITEMS, REPEAT_LOST, WRITTEN
from handlers.record_files import record_files
from tsctl.monitoring.worker_files import counts_by_outcome


@dataclass(frozen=True)
class Recorded:
    """The records of one node.

    Args:
        written: items, also those without their input; `dropped`: by the reason.
        without_input: of the written ones, whose inputs could not be kept.
        repeats_lost: stable's second answers that could not be written.
        bytes: of the files of records, however old.
        most_bytes: that they may have.
        problem: why counts or files cannot be read; empty where they can.
    """

    written: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    bytes: int = 0
    most_bytes: int = 0
    problem: str = ""
    without_input: int = 0
    repeats_lost: int = 0


def read_recorded(metrics: Path, records: Path, most_bytes: int) -> Recorded | None:
    """What a node of this machine recorded; None where nothing ever was.

    Args:
        metrics: the folder of its workers' metrics.
        records: the folder of its records.
    """
    counts, problems = counts_by_outcome(metrics, RECORDED_ITEMS)
    size = 0
    try:
        size = sum(_size(records / file.name) for file in record_files(records))
    except FileNotFoundError:
        pass
    except OSError as error:
        problems.append(f"{records} cannot be read: {error.strerror}")
    if not (any(counts.values()) or size or problems):  # a worker that records nothing has counts of 0
        return None
    dropped = {outcome: counts[outcome] for outcome in DROPPED_RECORDS if counts.get(outcome)}
    without_input = counts.get(INPUT_FAILED, 0)
    written = counts.get(WRITTEN, 0) + without_input
    lost = counts.get(REPEAT_LOST, 0)
    return Recorded(written, dropped, size, most_bytes, "; ".join(problems), without_input, lost)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # a worker or `compact` has just replaced it
        return 0
