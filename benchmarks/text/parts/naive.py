"""Users served at once with times within twice those of a lone user, against servers with one prompt at a time."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.harness.figures import Figure, Goal
from benchmarks.harness.run import Job
from benchmarks.harness.workload import own_folder
from benchmarks.text.parts.turns import Turns, clients
from benchmarks.text.prompts import Lengths
from benchmarks.text.statistics import Served, users_within
from benchmarks.text.table import TextResult
from benchmarks.text.targets import Measure, naive, text_site, weights_file

#: Short, because a naive server computes some tokens a second.
LENGTHS = Lengths((16, 48), (32, 32))
NAIVE = {"FastAPI, transformers": "transformers", "FastAPI, openvino": "openvino"}
OURS = "gateway, uvicorn node"
NAIVE_USERS, USERS = (1, 2), (1, 2, 4, 6, 8, 10, 12, 16, 24, 32)
#: A lone user of a slow server is answered a few times in this.
NAIVE_S = 16.0
WITHIN = 2.0
TIMES_NAIVE = Goal(10)


def run(job: Job) -> TextResult:
    """Each server alone with the machine, one after the other.

    Raises:
        TsctlError: a server does not serve.
    """
    turns = Turns(job, LENGTHS)

    def levels(name: str, measure: Measure, users: Sequence[int], seconds: float) -> dict[int, Served]:
        return {number: turns.take(name, measure, number, seconds) for number in users}

    seen = {}
    for name, library in NAIVE.items():
        with naive(weights_file(), library) as measure:
            seen[name] = levels(name, measure, NAIVE_USERS, NAIVE_S)
    with own_folder() as folder, text_site(job, folder, ["uvicorn"]) as site:
        seen[OURS] = levels(OURS, site.through_gateway("uvicorn"), USERS, job.seconds)
    settings = {"prompt": LENGTHS.prompt, "answer": LENGTHS.answer, "within": WITHIN}
    figures = [*users_figures(seen), clients(turns.rows)]
    return TextResult("naive", "one prompt at a time behind FastAPI", settings, {}, figures, rows=turns.rows)


def users_figures(seen: dict[str, dict[int, Served]]) -> list[Figure]:
    """How many users each server serves in time: as its own lone user, and as the naive server's lone user."""
    most = {name: users_within(levels, levels[1], WITHIN) for name, levels in seen.items()}
    first, best = NAIVE
    of_naive = users_within(seen[OURS], seen[first][1], WITHIN)
    own = "within twice its own lone user's times"
    return [
        *(Figure(f"{name}: users {own}", "users", (float(number),)) for name, number in most.items()),
        Figure(f"{OURS}: users within twice a lone user's times of {first}", "users", (float(of_naive),)),
        _over(f"users {own}, over {first}", most[OURS], most[first]),
        _over(f"users {own}, over {best}", most[OURS], most[best]),
    ]


def _over(name: str, users: int, others: int) -> Figure:
    if not others:
        return Figure(name, "times", (), TIMES_NAIVE, why_not="the other server did not serve even one")
    return Figure(name, "times", (users / others,), TIMES_NAIVE)
