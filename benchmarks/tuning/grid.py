"""Measures every point of a model's grid once, on the uvicorn engine, and adds the pass to the model's table."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.tuning.table import Table, empty, path_of, read, write
from handlers.contract import usable_cores
from tsctl.archive.container import digest_of
from tsctl.archive.named import archive_of_name
from tsctl.archive.store import DIGEST_DIGITS
from tsctl.compare.nodes import own_project
from tsctl.config.project import Project
from tsctl.host.machine import machine_facts
from tsctl.host.progress import Progress
from tsctl.tune.choice import BUSY
from tsctl.tune.measure import Invalid, Measurer
from tsctl.tune.objective import Score, connections_for
from tsctl.tune.space import Settings, make_space
from tsctl.tune.tune import LOOK_CONNECTIONS, Options, prepare
from tsctl.tune.variants import Variants

ENGINE = "uvicorn"
#: Coarser than the batches of `tsctl tune`, so that all three models take a quarter of an hour.
BATCHES = (1, 4, 16, 32, 64, 128)


@dataclass(frozen=True)
class Case:
    """One model, its limit, and the seconds of each load."""

    model: str
    slo_ms: float
    seconds: float
    batches: tuple[int, ...] = BATCHES


CASES = {
    case.model: case
    for case in (Case("digits", 50, 1), Case("breast_cancer", 50, 1), Case("embeddings", 500, 1, BATCHES[:-1]))
}


def measure_pass(project: Project, case: Case, progress: Progress, folder: Path | None = None) -> Table:
    """Measure every point once, and return the table with this pass; it is written to its file.

    A table of another archive, limit or machine is begun anew. Every second pass goes backwards, so that a drift of the
    machine does not favour one end. A change that was invalid alone makes every point with it invalid, unmeasured.
    """
    archive = archive_of_name(project, case.model, progress)
    prepared = prepare(project, archive, Options(case.slo_ms, engines=[ENGINE]))
    space = make_space(prepared.space.present, [ENGINE], [], usable_cores(), {}, case.batches)
    facts = machine_facts()
    path = path_of(case.model) if folder is None else path_of(case.model, folder)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tsctl-grid-")))
        own = own_project(project, scratch / "own")
        most = max(workers for workers, _ in space.shapes)
        variants = Variants(archive, scratch / "archive", own, most, has_cache=False)
        measurer = stack.enter_context(Measurer(own, variants, prepared.requests, case.slo_ms, LOOK_CONNECTIONS))
        look = measurer.measure(space.present, case.seconds, lambda _: None)
        head: dict[str, Any] = {
            "model": case.model,
            "archive": digest_of(archive)[:DIGEST_DIGITS],
            "slo_p99_ms": case.slo_ms,
            "seconds": case.seconds,
            "machine": {name: facts[name] for name in ("cores", "processor", "memory_gib")},
        }
        table = _table(path, empty(space, head))
        measurer.connections = int(table.head.get("connections", connections_for(look.capacity_s, case.slo_ms)))
        table = Table(table.space, table.points, {**table.head, "connections": measurer.connections})
        scores, reasons = _measure(case, table, measurer, progress)
    table = table.with_pass(scores, reasons)
    write(path, table)
    return table


def _table(path: Path, new: Table) -> Table:
    """The table in the file, where its passes can be compared with those of the new one.

    Passes on a machine that did other work say little, and are dropped.
    """
    if not path.is_file():
        return new
    old = read(path)
    if old.others > BUSY:
        return new
    return old if old.space == new.space and all(old.head.get(name) == new.head[name] for name in new.head) else new


def _measure(
    case: Case, table: Table, measurer: Measurer, progress: Progress
) -> tuple[dict[Settings, Score], dict[Settings, str]]:
    scores: dict[Settings, Score] = {}
    reasons = {point.settings: point.reason for point in table.points.values() if point.reason}
    present, points = table.space.present, [*table.points][:: -1 if table.passes % 2 else 1]
    alone: dict[tuple[str, object], str] = {}
    with progress.step(f"{case.model}: {len(points)} points, pass {table.passes + 1}") as step:
        for place, settings in enumerate(points, 1):
            step.note(f"{place} of {len(points)}: {settings.text}")
            changed = [
                (name, getattr(settings, name))
                for name in ("compile", "dtype")
                if getattr(settings, name) != getattr(present, name)
            ]
            known = next((alone[change] for change in changed if change in alone), "")
            if known or settings in reasons:
                reasons[settings] = reasons.get(settings) or known
                continue
            try:
                scores[settings] = measurer.measure(settings, case.seconds, lambda _: None)
            except Invalid as error:
                reasons[settings] = str(error)
                if len(changed) == 1:
                    alone[changed[0]] = str(error)
        step.done(f"{len(scores)} measured, {len(reasons)} invalid")
    return scores, reasons
