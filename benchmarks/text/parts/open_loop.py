"""Users who come whatever was answered, with mixed lengths: at half, at most and at twice of the capacity."""

from __future__ import annotations

import math

from benchmarks.harness.figures import Figure, Goal
from benchmarks.harness.run import Job
from benchmarks.harness.workload import own_folder
from benchmarks.text.load import Measured, Plan
from benchmarks.text.parts.turns import NONE, Turns, clients, summary
from benchmarks.text.prompts import Lengths, arrivals, bodies, mean_lengths
from benchmarks.text.statistics import Served
from benchmarks.text.stream import BROKEN, REFUSED, TOLD, UNREACHED, WHOLE
from benchmarks.text.table import TextResult
from benchmarks.text.targets import Measure, text_site

MIXED = Lengths((16, 1024), (16, 256))
#: Capacity is what so many users get who ask again as soon as they are answered.
CAPACITY_USERS, CAPACITY_S = 32, 30.0
SHARES = (0.5, 0.8)
LOOP_S, DRAIN_S = 60.0, 60.0
#: Long enough to fill the places of all answers, which takes half of it.
OVERLOAD_S = 60.0
OVERLOAD = 2.0
COUNT, SEED = 600, 7
#: The statuses of a server that has no place.
BUSY = (429, 503)
REFUSED_MS = Goal(50, is_ceiling=True)
TARGET = "gateway, uvicorn node"


def run(job: Job) -> TextResult:
    """Capacity, then SHARES of it.

    Raises:
        TsctlError: the node or the gateway does not serve.
    """
    turns = Turns(job, MIXED)
    figures: list[Figure] = []
    with own_folder() as folder, text_site(job, folder, ["uvicorn"]) as site:
        measure = site.through_gateway("uvicorn")
        capacity = _capacity(turns, measure)
        for share in SHARES:
            measured = _loop(turns, measure, share, capacity, LOOP_S)
            figures += loop_figures(f"{share:.0%} of capacity", measured, turns.rows[-1].served)
    return _result("open-loop", turns, [_capacity_figure(capacity), *figures])


def run_overload(job: Job) -> TextResult:
    """Twice the capacity.

    Raises:
        TsctlError: the node or the gateway does not serve.
    """
    turns = Turns(job, MIXED)
    with own_folder() as folder, text_site(job, folder, ["uvicorn"]) as site:
        measure = site.through_gateway("uvicorn")
        capacity = _capacity(turns, measure)
        measured = _loop(turns, measure, OVERLOAD, capacity, OVERLOAD_S)
    return _result("overload", turns, [_capacity_figure(capacity), *overload_figures(measured)])


def _result(key: str, turns: Turns, figures: list[Figure]) -> TextResult:
    prompt, answer = mean_lengths(MIXED, COUNT, SEED)
    settings = {
        "prompt": MIXED.prompt, "answer": MIXED.answer, "mean_prompt": prompt, "mean_answer": answer, "seed": SEED,
        "length": "as the model ends, at most max_tokens",
    }  # fmt: skip
    figures = [*figures, clients(turns.rows)]
    return TextResult(key, "users who come whatever was answered", settings, {}, figures, rows=turns.rows)


def _capacity(turns: Turns, measure: Measure) -> float:
    """Answers a second that users get who never stop asking."""
    seen = turns.take(TARGET, measure, CAPACITY_USERS, CAPACITY_S)
    return seen.outcomes[WHOLE] / seen.seconds


def _loop(turns: Turns, measure: Measure, share: float, capacity: float, seconds: float) -> Measured:
    moments = arrivals(share * capacity, seconds, SEED)
    plan = Plan(bodies(MIXED, COUNT, SEED + round(share * 100)), 0, seconds, drain_s=DRAIN_S, arrivals=moments)
    with turns.job.progress.step(f"{TARGET}: {share * capacity:.1f} requests/s") as step:
        measured = measure(plan)
        measured.end = max((stream.ended for stream in measured.streams), default=measured.end) + 1e-3
        step.done(summary(turns.keep(TARGET, f"{share:.0%}, open", measured, lead_s=0.0)))
    return measured


def _capacity_figure(capacity: float) -> Figure:
    return Figure(f"capacity: answers to {CAPACITY_USERS} users", "requests/s", (capacity,))


def loop_figures(name: str, measured: Measured, seen: Served) -> list[Figure]:
    """Percentiles of both times, and what went wrong."""
    values = {
        "first token, p50": seen.first.p50, "first token, p99": seen.first.p99,
        "per token, p50": seen.token.p50, "per token, p99": seen.token.p99,
    }  # fmt: skip
    return [
        *(
            Figure(f"{name}: {what}", "ms", () if math.isnan(ms) else (ms,), why_not="no answer" * math.isnan(ms))
            for what, ms in values.items()
        ),
        Figure(f"{name}: requests", "requests", (float(len(measured.streams)),)),
        Figure(f"{name}: not answered as a whole", "requests", (float(seen.failed),), NONE),
        Figure(f"{name}: a request was sent late by at most", "ms", (measured.late_s * 1000,)),
    ]


def overload_figures(measured: Measured) -> list[Figure]:
    """What became of the requests, and how soon those that were refused knew."""
    outcomes = [stream.outcome for stream in measured.streams]
    refusals = [stream for stream in measured.streams if stream.outcome == REFUSED]
    refused = sorted((s.ended - s.asked) * 1000 for s in refusals if s.status in BUSY)
    median = (refused[len(refused) // 2],) if refused else ()
    slowest = (refused[-1],) if refused else ()
    why = "" if refused else "nothing was refused"
    broken = sum(outcomes.count(outcome) for outcome in (BROKEN, TOLD, UNREACHED))
    return [
        Figure("requests", "requests", (float(len(outcomes)),)),
        Figure("answered as a whole", "requests", (float(outcomes.count(WHOLE)),)),
        Figure("refused", "requests", (float(len(refused)),)),
        Figure("refused after, median", "ms", median, why_not=why),
        Figure("refused after, slowest", "ms", slowest, REFUSED_MS, why_not=why),
        Figure("too late, or failed otherwise", "requests", (float(len(refusals) - len(refused)),)),
        Figure("streams that broke", "streams", (float(broken),), NONE),
    ]
