"""Answers reference data and writes the records of the answers, from which an archive's references are made.

Invariant: a line is what a recorder would write of the same request, so that references and records are one function.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from handlers.cache.keys import canonical
from handlers.contract import JSON, SAMPLE_MEDIA_TYPES, sample_media_type
from handlers.errors import LoadError
from handlers.messages import Outcome, Request
from handlers.records.record import Batch, Recording, Sampled
from handlers.worker.self_test import reason
from handlers.worker.worker import Worker

#: A file of this suffix holds one JSON request in each line.
LINES = ".jsonl"

Named = tuple[str, Request]


def read_reference(files: Sequence[Path], types: Mapping[str, str] = SAMPLE_MEDIA_TYPES) -> Iterator[Named]:
    """Every request of the files, with the place where it stands.

    Raises:
        LoadError: the suffix of a file says no media type.
    """
    for path in files:
        media_type = sample_media_type(path.name, types)
        if path.suffix.lower() == LINES:
            with path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield f"{path.name}, line {number}", Request(line, JSON, request_id=f"{path.name}:{number}")
        elif media_type is not None:
            yield path.name, Request(path.read_bytes(), media_type, request_id=path.name)
        else:
            suffixes = ", ".join([LINES, *{**SAMPLE_MEDIA_TYPES, **types}])
            raise LoadError(f"reference {path.name}: expected a file that ends with {suffixes}")


def write_reference(worker: Worker, files: Sequence[Path], out: Path) -> int:
    """Write a record for each request of the files; returns how many.

    In place of `startup.start`; the worker must not serve afterwards. Nothing is accelerated, as for golden answers.

    Raises:
        LoadError: a request is not answered with 200, or cannot be recorded.
    """
    handler, config = worker.handler, worker.config
    handler.load()
    recording = Recording(config.model, config.version, handler.summarize, canonical, handler.redact, False)
    written = 0
    with out.open("wb") as file:
        for named in _batches(read_reference(files, config.sample_types), config.batch_size):
            outcomes = worker.pipeline.answer([request for _, request in named])
            for (place, request), outcome in zip(named, outcomes, strict=True):
                if outcome.status != 200:
                    why = reason(outcome, worker.pipeline.last_failure)
                    raise LoadError(f"reference {place}: answered {outcome.status}: {why}")
                file.write(_record(worker, recording, place, request, outcome))
            written += len(named)
    return written


def _record(worker: Worker, recording: Recording, place: str, request: Request, outcome: Outcome) -> bytes:
    try:
        item = worker.handler.decode(request.body, request.media_type)
        return recording.record(Sampled(request, item, outcome, Batch(0.0, 0.0, 1, {})))
    except Exception as error:
        raise LoadError(f"reference {place}: cannot be recorded: {type(error).__name__}: {error}") from error


def _batches(named: Iterable[Named], size: int) -> Iterator[list[Named]]:
    rest = iter(named)
    while batch := list(islice(rest, size)):
        yield batch
