"""A version that gets three times the requests that it can answer: is it in rotation, and what does it answer?"""

from __future__ import annotations

import time

from benchmarks.harness.client import under_load
from benchmarks.harness.figures import Figure, Goal, Result
from benchmarks.harness.run import Job
from benchmarks.harness.workload import own_folder
from benchmarks.targets.fleet import BODY, MODEL, Fleet, running_fleet

#: Takes half a second for a batch of 32, which is 64 requests/s.
VERSION, CAN_ANSWER = "overloaded", 64.0
#: Clients ask again at once, and a request that is not answered ends after the deadline: 192 requests/s.
DEADLINE_S, TIMES = 1.5, 3
CLIENTS = round(TIMES * CAN_ANSWER * DEADLINE_S)
#: Seconds until the queue is as long as it gets, which are not counted.
FULL_S = 3.0
POLL_S = 0.05


def run(job: Job) -> Result:
    """Overload once a round.

    Raises:
        TsctlError: the node or the gateway does not serve.
    """
    route = {"deadline_s": DEADLINE_S}
    served = [(MODEL, VERSION)]
    with own_folder() as folder, running_fleet(job.project, folder / "own", 1, served, job.progress, route) as fleet:
        rounds = [_overloaded(fleet, number, job) for number in range(job.rounds)]
    figures = [
        Figure("out of rotation", "share", tuple(out for out, _, _ in rounds), Goal(0, is_ceiling=True)),
        Figure("answered of what the worker can answer", "share", tuple(a for _, a, _ in rounds), Goal(0.6)),
        Figure("requests/s", "requests/s", tuple(sent for _, _, sent in rounds)),
    ]
    settings = {"clients": CLIENTS, "deadline_s": DEADLINE_S, "the worker can answer": f"{CAN_ANSWER:g} requests/s"}
    return Result("overload", "three times the requests that a version can answer", settings, {}, figures)


def _overloaded(fleet: Fleet, number: int, job: Job) -> tuple[float, float, float]:
    """The shares of time out of rotation and of the possible answers that came, and requests/s."""
    [node], looks, out = fleet.nodes, 0, 0
    with (
        job.progress.step(f"round {number + 1}: {CLIENTS} clients") as step,
        under_load(fleet.address(f"/predictions/{MODEL}"), BODY, CLIENTS) as load,
    ):
        time.sleep(FULL_S)
        begin, before = time.monotonic(), len(load.answers)
        while time.monotonic() < begin + job.seconds:
            looks += 1
            out += not fleet.is_in_rotation(node, MODEL, VERSION)
            time.sleep(POLL_S)
        took, answers = time.monotonic() - begin, load.answers[before:]
        answered = sum(answer.status == 200 for answer in answers)
        step.done(f"{len(answers) / took:.0f} requests/s, {answered / took:.0f} answered")
    return out / looks, answered / took / CAN_ANSWER, len(answers) / took
