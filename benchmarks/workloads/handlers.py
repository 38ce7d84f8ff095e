"""The workloads that measure handlers."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.harness.figures import Result
from benchmarks.harness.run import Job, Run
from benchmarks.workloads import cached, embeddings, first_request, idle, overhead, pictures


def first(job: Job) -> Result:
    """The first request after READY, with enough cold starts."""
    return first_request.run(replace(job, rounds=max(job.rounds, first_request.ROUNDS)))


WORKLOADS: dict[str, Run] = {
    "a": overhead.run,
    "b": embeddings.run,
    "c": pictures.run,
    "idle": idle.run,
    "cache": cached.run,
    "first": first,
}
