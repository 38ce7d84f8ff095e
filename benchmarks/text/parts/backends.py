"""Each backend in one process, and vLLM's own server: tokens/s and times at 1, 4, 16 and 64 users."""

from __future__ import annotations

from benchmarks.harness.figures import Figure
from benchmarks.harness.run import Job
from benchmarks.harness.workload import own_folder
from benchmarks.targets.fleet import missing_engine
from benchmarks.text.parts.turns import Turns, by_users, clients
from benchmarks.text.table import TextResult
from benchmarks.text.targets import (
    ARCHIVE,
    Measure,
    built_archive,
    genai_alone,
    in_process,
    text_site,
    unpacked_archive,
    weights_file,
)
from tsctl.compare.nodes import own_project

USERS = (1, 4, 16, 64)
BACKENDS, VLLM = ("openvino", "transformers"), "vllm"
#: The library alone, with answers that do not depend on the batch, and with the fastest.
GENAI = {True: "openvino-genai, float32", False: "openvino-genai, fast"}


def run(job: Job) -> TextResult:
    """One backend after the other, each alone with the machine.

    Raises:
        TsctlError: a backend does not load.
    """
    levels = _Levels(job)
    for is_exact, name in GENAI.items():
        with genai_alone(weights_file(), is_exact) as measure:
            levels.take(name, measure)
    with own_folder() as folder:
        archive = built_archive(job, own_project(job.project, folder / "own"), ARCHIVE)
        unpacked = unpacked_archive(archive, folder)
        for backend in BACKENDS:
            with in_process(unpacked, {"backend": backend}) as measure:
                levels.take(backend, measure)
    return levels.result("backends", "backends in one process")


def run_vllm(job: Job) -> TextResult:
    """vLLM's own server on a node, and after it the archive's backend in one process.

    Raises:
        TsctlError: the node does not serve.
    """
    if missing := missing_engine(job.project, VLLM):
        return TextResult(VLLM, "vLLM's own server", {}, {}, [Figure("tokens/s", "times", (), why_not=missing)])
    levels = _Levels(job)
    with own_folder() as folder:
        with text_site(job, folder, [VLLM]) as site:
            levels.take("vLLM's server", site.direct(VLLM))
            unpacked = unpacked_archive(site.archive, folder)
        with in_process(unpacked) as measure:
            levels.take("in process", measure)
    return levels.result(VLLM, "vLLM's own server")


class _Levels:
    """Takes turns of one target after the other at each number of users."""

    def __init__(self, job: Job) -> None:
        self._turns = Turns(job)
        self._notes: list[str] = []

    def take(self, name: str, measure: Measure) -> None:
        job = self._turns.job
        seen = {users: self._turns.take(name, measure, users, seconds(job, users)) for users in USERS}
        self._notes.append(f"{name}: {by_users(seen)}")

    def result(self, key: str, title: str) -> TextResult:
        settings = {"prompt": self._turns.lengths.prompt, "answer": self._turns.lengths.answer}
        rows = self._turns.rows
        return TextResult(key, title, settings, {}, [clients(rows)], tuple(self._notes), rows=rows)


def seconds(job: Job, users: int) -> float:
    """The length of a turn: 64 users need several seconds for one answer each."""
    return job.seconds if users < 64 else 2.0 * job.seconds
