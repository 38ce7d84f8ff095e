"""The drift part of a game day: real workers answer requests that move away from the reference, and the alarm watches.

The requests are drawn from the reference data of the archives, with replacement. They go over HTTP to the archive's own
server, whose worker records each; the watch reads the records in the order of the requests.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gameday.drift_cases import BUDGET, CASES, DriftCase, DriftFound, Query, judge, requests_of
from benchmarks.harness.client import Address, Connection
from benchmarks.harness.figures import Figure, Goal, Result
from benchmarks.harness.run import Run
from benchmarks.harness.workload import own_folder
from benchmarks.targets.served import ServedTarget
from handlers.contract import RECORDS_FOLDER_VARIABLE
from tsctl.archive.build import build_shown
from tsctl.compare.nodes import own_project
from tsctl.config.archive import Records, read_archive_spec
from tsctl.config.project import Project
from tsctl.drift.detector import watch
from tsctl.drift.features import values_of
from tsctl.drift.reference import count
from tsctl.errors import AnalysisError, NodeError
from tsctl.host.progress import Progress
from tsctl.host.wait import wait_until
from tsctl.monitoring.drift import Subject, subject_of
from tsctl.records.database import Place, query

VERSION, SEED, CONNECTIONS = "1.0", 20_261_126, 4
COLUMNS = ("case", "model", "change", "outcome", "items until the alarm", "named")
#: A class of digits, of which more come in a case.
THREE = "3"
#: Requests after which the records are waited for: a worker's queue holds 1,024, and drops what comes on top.
TOGETHER = 500
#: Seconds until the worker's thread has written all records.
WRITTEN_S = 60.0
#: Columns that are read of each record.
COLUMNS_READ = (
    "request_id", "numbers", "categories", "label", "score", "scores", "outputs", "norm", "sketch", "text_length",
)  # fmt: skip
NONE = Goal(0, is_ceiling=True)


@dataclass(frozen=True)
class DriftDay(Result):
    """The figures, and what the alarm said in each case."""

    found: tuple[DriftFound, ...] = ()

    def as_json(self) -> dict[str, Any]:
        rows = [dict(zip(COLUMNS, row, strict=True)) for row in rows_of(self.found)]
        return {**super().as_json(), "found": rows}


def workloads(only: Sequence[str]) -> dict[str, Run]:
    """The drift cases as one workload."""
    return {"drift": lambda job: run(job.project, job.progress, [case for case in CASES if case.key in only])}


def run(project: Project, progress: Progress, cases: Sequence[DriftCase]) -> DriftDay:
    """Send the requests of each case to its model, and read their records into a watch.

    Raises:
        TsctlError: an archive cannot be built, or its server does not answer.
    """
    found: list[DriftFound] = []
    for model in dict.fromkeys(case.model for case in cases):
        with own_folder() as folder, _serving(project, model, folder / "own", progress) as site:
            for case in cases:
                if case.model == model:
                    with progress.step(f"{case.model}: {case.title}") as step:
                        result = _judged(site, case)
                        step.done(_narrate(result))
                    found.append(result)
    settings = {"budget_items": BUDGET, "connections": CONNECTIONS, "seed": SEED}
    return DriftDay("drift", "requests that move away from the reference", settings, {}, figures(found),
                    found=tuple(found))  # fmt: skip


def figures(found: Sequence[DriftFound]) -> list[Figure]:
    """Totals over all cases."""
    moved = [one.is_right for one in found if one.case.features]
    silent = [not one.is_right for one in found if not one.case.features]
    return [
        Figure("drift cases found", "cases", (sum(moved),), Goal(len(moved))),
        Figure("identical weeks with an alarm", "weeks", (sum(silent),), NONE),
    ]


def found_in(results: Sequence[Result]) -> list[DriftFound]:
    """What the alarm said in each case."""
    return [one for result in results if isinstance(result, DriftDay) for one in result.found]


def rows(results: Sequence[Result]) -> list[tuple[object, ...]]:
    """A row of COLUMNS for each case."""
    return rows_of(found_in(results))


def rows_of(found: Sequence[DriftFound]) -> list[tuple[object, ...]]:
    """A row of COLUMNS for each of these."""
    return [
        (one.case.key, one.case.model, one.case.title, one.outcome, one.delay,
         "; ".join(f"{name} ({change})" for name, change in one.causes[:2]) or None)
        for one in found
    ]  # fmt: skip


def wrong(found: Sequence[DriftFound]) -> list[str]:
    """The cases in which the alarm was wrong, in words."""
    return [f"{one.case.key} ({one.case.title}): {_narrate(one)}" for one in found if not one.is_right]


@dataclass(frozen=True)
class _Site:
    """An archive on its server.

    Args:
        rows: the requests of its reference data.
        records: the folder of its worker's records.
    """

    address: Address
    subject: Subject
    rows: Sequence[Mapping[str, Any]]
    records: Path


@contextmanager
def _serving(project: Project, model: str, folder: Path, progress: Progress) -> Iterator[_Site]:
    """The model's archive, which records all requests, on the server of an unpacked archive."""
    own = own_project(project, folder)
    copied = Path(shutil.copytree(project.archives / model, own.archives / model))
    spec = read_archive_spec(copied / "archive.yaml").model_copy(update={"records": Records(share=1.0)})
    path = build_shown(own, copied, spec, VERSION, progress).archive.path
    data = copied / ".built" / VERSION / (spec.reference or "")
    reference = [json.loads(line) for line in data.read_bytes().splitlines()]
    records = folder / "records"
    target = ServedTarget(model, path, folder / "unpacked", "", {RECORDS_FOLDER_VARIABLE: str(records)})
    with progress.step(f"starting {model}"):
        address = target.start()
    try:
        yield _Site(Address(address.url, {}), subject_of(path, model, VERSION), reference, records)
    finally:
        target.stop()


def _judged(site: _Site, case: DriftCase) -> DriftFound:
    threes = _of_class(site, case, THREE) if case.key == "threes" else []
    queries = requests_of(case, site.rows, threes, SEED)
    records = _recorded(site, case.key, queries)
    references = site.subject.references
    items = []
    for record in records:
        values = values_of(record)
        items.append({name: count(each, [values.get(name)]) for name, each in references.items()})
    return judge(case, watch(references, BUDGET), items)


def _of_class(site: _Site, case: DriftCase, label: str) -> list[Mapping[str, Any]]:
    """The rows that the model answers with this class."""
    asked = [Query(json.dumps(row).encode()) for row in site.rows]
    answered = _recorded(site, f"{case.key}-rows", asked)
    return [row for row, record in zip(site.rows, answered, strict=True) if record["label"] == label]


def _recorded(site: _Site, name: str, queries: Sequence[Query]) -> list[dict[str, Any]]:
    """Send the requests, and return their records in the same order.

    Raises:
        NodeError: a request failed.
        AnalysisError: one was not recorded.
    """
    for start in range(0, len(queries), TOGETHER):
        end = min(start + TOGETHER, len(queries))
        failed = [status for status in _asked(site, name, queries, range(start, end)) if status != 200]
        if failed:
            raise NodeError(f"{site.subject.name}: {len(failed)} requests failed, one with {failed[0]}")
        if not wait_until(partial(_is_written, site, name, end), WRITTEN_S, 0.1):
            raise AnalysisError(f"{site.subject.name}: fewer than {end} requests were recorded in {WRITTEN_S:g} s")
    _, rows = _query(site, f"SELECT {', '.join(COLUMNS_READ)}", name)
    rows.sort(key=lambda row: int(str(row[0]).rpartition(":")[2]))
    return [dict(zip(COLUMNS_READ, row, strict=True)) for row in rows]


def _asked(site: _Site, name: str, queries: Sequence[Query], numbers: range) -> list[int]:
    """The statuses of the answers to these requests."""

    def ask(own: range) -> list[int]:
        connection = Connection(site.address)
        statuses = [
            connection.ask(
                queries[number].body,
                {"content-type": queries[number].media_type, "x-request-id": f"{name}:{number}"},
            ).status
            for number in own
        ]
        connection.close()
        return statuses

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        return [status for statuses in pool.map(ask, [numbers[i::CONNECTIONS] for i in range(CONNECTIONS)])
                for status in statuses]  # fmt: skip


def _is_written(site: _Site, name: str, least: int) -> bool:
    """Whether so many requests whose ids begin with the name are recorded."""
    _, [(written,)] = _query(site, "SELECT count(*)", name)
    return int(written) >= least


def _query(site: _Site, selected: str, name: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    sql = f"{selected} FROM records WHERE starts_with(request_id, $1)"
    return query([Place("worker", str(site.records))], sql, [f"{name}:"])


def _narrate(one: DriftFound) -> str:
    named = ", ".join(f"{name} ({change})" for name, change in one.causes[:2])
    if one.delay is None:
        return f"silent in {one.items:,} items"
    return f"{one.outcome} after {one.delay:,} items: {named}"
