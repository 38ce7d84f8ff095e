"""Which workloads the handlers are measured by."""

from __future__ import annotations

from benchmarks.harness.figures import Figure, Result, Target
from benchmarks.harness.run import Run
from benchmarks.workloads import cached, embeddings, first_request, idle, overhead, pictures
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.project import Project
from tsctl.host.progress import Progress

#: At most this many times the median of the next hundred requests.
FIRST_REQUEST = Target(1.5, is_ceiling=True)
#: At least so many cold starts: there is only one first request in each.
FIRST_ROUNDS = 5
OURS = "tsctl"


def first(project: Project, deployment: DeploymentSpec, rounds: int, seconds: int, progress: Progress) -> Result:
    """The first request after READY of every model of the deployment, and of a stock handler."""
    rows = first_request.measure(project, deployment, max(rounds, FIRST_ROUNDS), progress)
    figures = [
        Figure(f"{row.model} ({row.handler})", "times", row.ratios, FIRST_REQUEST if row.handler == OURS else None)
        for row in rows
    ]
    return Result("first", "first request after READY", {"following": first_request.FOLLOWING}, {}, figures)


WORKLOADS: dict[str, Run] = {
    "a": lambda project, _, rounds, seconds, progress: overhead.run(project, rounds, seconds, progress),
    "b": lambda project, _, rounds, seconds, progress: embeddings.run(project, rounds, seconds, progress),
    "c": lambda project, _, rounds, seconds, progress: pictures.run(project, rounds, seconds, progress),
    "idle": lambda project, _, rounds, seconds, progress: idle.run(project, rounds, progress),
    "cache": lambda project, _, rounds, seconds, progress: cached.run(project, rounds, progress),
    "first": first,
}
