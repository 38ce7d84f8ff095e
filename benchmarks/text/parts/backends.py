"""Each backend alone in a process, and vLLM's own server: tokens/s and times at 1, 4, 16 and 64 users."""

from __future__ import annotations

from benchmarks.harness.run import Job
from benchmarks.harness.workload import own_folder
from benchmarks.text.parts.turns import Turns, by_users, clients
from benchmarks.text.table import TextResult
from benchmarks.text.targets import (
    ARCHIVE,
    Measure,
    built_archive,
    genai_alone,
    in_process,
    unpacked_archive,
    weights_file,
)
from tsctl.compare.nodes import own_project

USERS = (1, 4, 16, 64)
BACKENDS = ("openvino", "transformers")
#: The library alone, with answers that do not depend on the batch, and with the fastest.
GENAI = {True: "openvino-genai, float32", False: "openvino-genai, fast"}


def run(job: Job) -> TextResult:
    """One backend after the other, each alone with the machine.

    Raises:
        TsctlError: a backend does not load.
    """
    turns, notes = Turns(job), []

    def take(name: str, measure: Measure) -> None:
        levels = {users: turns.take(name, measure, users, seconds(job, users)) for users in USERS}
        notes.append(f"{name}: {by_users(levels)}")

    for is_exact, name in GENAI.items():
        with genai_alone(weights_file(), is_exact) as measure:
            take(name, measure)
    with own_folder() as folder:
        archive = built_archive(job, own_project(job.project, folder / "own"), ARCHIVE)
        unpacked = unpacked_archive(archive, folder)
        for backend in BACKENDS:
            with in_process(unpacked, {"backend": backend}) as measure:
                take(backend, measure)
    settings = {"prompt": turns.lengths.prompt, "answer": turns.lengths.answer}
    return TextResult("backends", "backends alone", settings, {}, [clients(turns.rows)], tuple(notes), rows=turns.rows)


def seconds(job: Job, users: int) -> float:
    """The length of a turn: 64 users need several seconds for one answer each."""
    return job.seconds if users < 64 else 2.0 * job.seconds
