"""The answers of an archive to many batches of requests, without a server: it runs in the sandbox.

The answers go through a file and are read one after the other, because they may be more than memory holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO

from pydantic import Base64Bytes, Field, TypeAdapter, ValidationError

from tsctl.archive.inspect import Facts
from tsctl.archive.trial import ItemRequest, Trial, run_probe
from tsctl.errors import ArchiveError

#: The file, in the folder of the unpacked archive, which is the only one that its code may write.
_ANSWERS = "answers-of-tsctl.jsonl"
#: The longest line that is read: a batch of 1024 answers of a quarter of a MiB.
_LONGEST_LINE = 256 << 20


@dataclass(frozen=True)
class BatchAnswer:
    """The answer to one item of a batch."""

    status: int
    body: Base64Bytes  # in JSON


@dataclass(frozen=True)
class BatchAnswers:
    """The answers to one batch, in the order of its items."""

    ms: Annotated[float, Field(ge=0, allow_inf_nan=False)]  # that the batch took in the worker
    answers: tuple[BatchAnswer, ...]


_LINE = TypeAdapter(BatchAnswers)


@contextmanager
def answers_of(
    folder: Path, facts: Facts, batches: Sequence[Sequence[ItemRequest]], timeout_s: float
) -> Iterator[Iterator[BatchAnswers]]:
    """The answers to each batch, in order; all are there when the block begins, and are read in it one after the other.

    Args:
        folder: of the unpacked archive, whose static checks have passed.

    Raises:
        ArchiveError: it does not load, does not answer all batches in time, or (while they are read) gives other than
            one answer for each item.
    """
    name = " ".join(facts.names)
    path = folder / _ANSWERS
    with path.open("x+b") as file:  # stays open: the archive's code may put another file in its place
        trial = run_probe(folder, facts.batch_size, batches, timeout_s=timeout_s, to=path)
        if trial.error:
            raise _failure(name, trial, has_answers=bool(file.read(1)))
        yield _read(file, batches, name)


def _failure(name: str, trial: Trial, has_answers: bool) -> ArchiveError:
    hint = "Give fewer requests with --most, or a longer --timeout." if "stopped after" in trial.error else ""
    if trial.is_loaded or has_answers:
        return ArchiveError(f"{name} did not answer all requests: {trial.error}\n{trial.log}".strip(), hint)
    reason = trial.error.removeprefix("LoadError: ")  # complete for a handler of tsctl; others need the log
    log = f"\n{trial.log}" if reason == trial.error else ""
    return ArchiveError(f"{name} does not load: {reason}{log}".strip(), hint)


def _read(file: BinaryIO, batches: Sequence[Sequence[ItemRequest]], name: str) -> Iterator[BatchAnswers]:
    for batch in batches:
        try:
            line = _LINE.validate_json(file.readline(_LONGEST_LINE))
        except ValidationError:
            raise ArchiveError(f"{name}: the answers of its worker cannot be read") from None
        if len(line.answers) != len(batch):
            raise ArchiveError(f"{name} gave {len(line.answers)} answers to a batch of {len(batch)}")
        yield line
