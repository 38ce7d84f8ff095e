"""Ten million records, read by `tsctl records query`: the time and the memory of the whole command."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from benchmarks.harness.figures import Figure, Goal, Result
from benchmarks.harness.run import Job
from benchmarks.harness.workload import own_folder
from handlers.record_files import PARQUET, RECORDS, RecordFile
from tsctl.errors import AnalysisError
from tsctl.records.database import COLUMNS, connect

ROWS, FILES = 10_000_000, 40
#: How many of the files are generated; the others are links to these, because generating takes longest.
DISTINCT = 10
QUERIES = {
    "average by version": "SELECT version, avg(score), count(*) FROM records GROUP BY version",
    "labels by hour": "SELECT label, date_trunc('hour', time) AS hour, count(*) FROM records GROUP BY ALL",
    "99th percentile by version": "SELECT version, approx_quantile(batch_ms, 0.99) FROM records GROUP BY version",
    "a feature by label": "SELECT label, avg(numbers['age']) FROM records GROUP BY label",
}
SECONDS, MEBIBYTES = Goal(2.0, is_ceiling=True), Goal(500.0, is_ceiling=True)
#: Columns of a generated record; all others are null.
_GENERATED = {
    "time": "make_timestamp(1764150000000000 + i * 8640)",
    "request_id": "md5(i::VARCHAR)",
    "row": "0",
    "model": "'toy'",
    "version": "CASE WHEN i % 10 = 0 THEN '2.0' ELSE '1.0' END",
    "client": "'client-' || (i % 50)",
    "track": "CASE WHEN i % 10 = 0 THEN 'canary' ELSE 'stable' END",
    "status": "CASE WHEN i % 1000 = 0 THEN 500 ELSE 200 END",
    "input_digest": "md5((i % 1000000)::VARCHAR)",
    "numbers": "MAP {'age': random() * 80, 'height': random(), 'weight': random()}",
    "label": "'class-' || (i % 7)",
    "score": "random()",
    "cache": "CASE WHEN i % 5 = 0 THEN 'hit' ELSE 'miss' END",
    "batch_items": "(i % 32)::INTEGER",
    "batch_ms": "random() * 20",
    "inference_ms": "random() * 10",
}


def run(job: Job) -> Result:
    """Every query, round by round, each in a process of its own.

    Raises:
        AnalysisError: a query failed.
    """
    with own_folder() as folder:
        with job.progress.step(f"generating {ROWS:,} records") as step:
            _generate(folder)
            step.done(f"{sum(path.stat().st_size for path in folder.iterdir()) >> 20} MiB of Parquet")
        seconds: dict[str, list[float]] = {name: [] for name in QUERIES}
        processor: dict[str, list[float]] = {name: [] for name in QUERIES}
        memory: dict[str, list[float]] = {name: [] for name in QUERIES}
        for number in range(job.rounds):
            with job.progress.step(f"round {number + 1} of {job.rounds}") as step:
                for name, sql in QUERIES.items():
                    taken, computed, used = _command(folder, sql)
                    seconds[name].append(round(taken, 2))
                    processor[name].append(round(computed, 2))
                    memory[name].append(round(used, 1))
                step.done(", ".join(f"{rounds[-1]:.2f}" for rounds in seconds.values()) + " s")
    figures = [Figure(name, "s", tuple(rounds), SECONDS) for name, rounds in seconds.items()]
    figures += [Figure(f"{name}, processor time", "s", tuple(rounds)) for name, rounds in processor.items()]
    figures += [Figure(f"{name}, memory", "MiB", tuple(rounds), MEBIBYTES) for name, rounds in memory.items()]
    return Result("records", "queries over generated records", {"rows": ROWS, "files": FILES, **QUERIES}, {}, figures)


def _generate(folder: Path) -> None:
    columns = {name: _GENERATED.get(name, "NULL") for name in ("time", *COLUMNS[RECORDS])}
    types = {"time": "TIMESTAMP", **COLUMNS[RECORDS]}
    chosen = ", ".join(f"({value})::{types[name]} AS {name}" for name, value in columns.items())
    each = ROWS // FILES
    for number in range(FILES):
        begin = number * each
        path = folder / _name(number)
        if number >= DISTINCT:
            path.hardlink_to(folder / _name(number % DISTINCT))
            continue
        connection = connect()
        connection.execute(
            f"COPY (SELECT {chosen} FROM range({begin}, {begin + each}) rows(i)) TO '{path}'"  # noqa: S608
            " (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 122880)"
        )
        connection.close()


def _name(number: int) -> str:
    return RecordFile(1764150000000 + number, 1795686000000, RECORDS, f"p{number}", PARQUET).name


def _command(folder: Path, sql: str) -> tuple[float, float, float]:
    """Seconds of the whole command, of its processor time, and the most memory that it had, in MiB."""
    arguments = ["records", "query", sql, "--from", str(folder), "--json"]
    begin = time.monotonic()
    devnull = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    command = [sys.executable, "-m", "tsctl.cli.main", *arguments]
    pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=devnull)
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise AnalysisError(f"tsctl records query ended with {os.waitstatus_to_exitcode(status)}")
    return time.monotonic() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
