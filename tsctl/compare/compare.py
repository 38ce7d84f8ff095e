"""Compares the engines for one archive: unpacks it, makes the contenders, and runs the rounds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tsctl.archive.comparator import comparator_of
from tsctl.archive.container import digest_of, unpack
from tsctl.archive.inspect import Facts, facts_of
from tsctl.archive.store import DIGEST_DIGITS
from tsctl.compare.bare import BareWorker
from tsctl.compare.contender import Contender
from tsctl.compare.nodes import node_contenders
from tsctl.compare.recorded import RecordedRequest, read_requests_to, sample_requests
from tsctl.compare.result import Comparison, Setting
from tsctl.compare.run import Run
from tsctl.compare.turn import Plan
from tsctl.config.project import Project
from tsctl.errors import ArchiveError, SpecError
from tsctl.host.machine import machine_facts
from tsctl.host.progress import Progress


@dataclass(frozen=True)
class Options:
    """How a comparison is made.

    Args:
        engines: in the order of the first round.
        traffic: a file of recorded requests; None: the archive's samples.
        workers: of each engine; None: as the archive says.
        seconds: measured load of each kind.
        warm_s: load before it that is not counted.
        connections: that saturate every engine; None: found for each engine.
        has_overload: whether twice the capacity is offered at the end of each turn.
    """

    engines: Sequence[str]
    traffic: Path | None = None
    workers: int | None = None
    rounds: int = 3
    seconds: float = 5.0
    warm_s: float = 3.0
    slo_p99_ms: float | None = None
    connections: int | None = None
    has_overload: bool = False


def compare(
    project: Project,
    archive: Path,
    options: Options,
    progress: Progress,
    more: Callable[[Path, Path], Sequence[Contender]] = lambda unpacked, folder: (),
) -> Comparison:
    """Measure the archive on every engine.

    Args:
        more: further contenders, from the unpacked archive and an empty folder of their own.

    Raises:
        ArchiveError: the archive was not built by tsctl, has no samples, or does not load.
        SpecError: the model generates text, there is no such engine, or the file of requests is wrong.
    """
    facts = _facts(archive)
    traffic = options.traffic
    requests = read_requests_to(traffic, facts.names[0]) if traffic is not None else sample_requests(archive)
    workers = options.workers or facts.integer("minWorkers") or 1
    with tempfile.TemporaryDirectory(prefix="tsctl-compare-") as name:
        folder = Path(name)
        unpacked = folder / "archive"
        unpack(archive, unpacked)
        nodes = node_contenders(project, folder / "own", archive, options.engines, options.workers)
        (folder / "more").mkdir()
        queue = facts.integer("jobQueueSize") or 100
        run = Run(
            _setting(archive, facts, options, workers, requests),
            [*nodes, *more(unpacked, folder / "more")],
            requests,
            BareWorker(unpacked, facts.batch_size, workers),
            comparator_of(facts).of_values(),
            Plan(options.seconds, options.warm_s, options.connections, queue if options.has_overload else None),
            progress,
        )
        return run.run()


def _facts(archive: Path) -> Facts:
    facts = facts_of(archive)
    if facts.is_stock:
        raise ArchiveError(f"{archive.name} was not built by tsctl, so only TorchServe can serve it")
    if facts.is_text:
        raise SpecError(
            f"{' '.join(facts.names)} generates text, token by token, and engines are compared by whole answers",
            "docs/text-generation.md says which engines serve such a model, and what they need.",
        )
    return facts


def _setting(
    archive: Path, facts: Facts, options: Options, workers: int, requests: Sequence[RecordedRequest]
) -> Setting:
    count = len(requests)
    source = f"{count} samples of the archive" if options.traffic is None else f"{count} requests of {options.traffic}"
    model, version = facts.names
    return Setting(
        model=model,
        version=version,
        digest=digest_of(archive)[:DIGEST_DIGITS],
        source=source,
        requests=count,
        request_bytes=sum(len(request.body) for request in requests) // count,
        workers=workers,
        batch=facts.batch_size,
        has_cache=bool(facts.config.get("serving", {}).get("cache")),
        rounds=options.rounds,
        seconds=options.seconds,
        slo_p99_ms=options.slo_p99_ms,
        machine=machine_facts(),
    )
