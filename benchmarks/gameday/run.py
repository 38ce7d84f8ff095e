"""A game day: releases versions that are bad on purpose, which must be rolled back, and an identical one, which must be
promoted."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.gameday.outcomes import Canary, Release, release_of
from benchmarks.gameday.site import MODEL, ROUTE, STABLE, gameday_site, logged_versions, release, reset, set_policy
from benchmarks.gameday.users import CONNECTIONS, PAUSE_S, digit_bodies, digit_of, users
from benchmarks.harness.client import Answer, Load
from benchmarks.harness.figures import Figure, Goal, Result
from benchmarks.harness.run import Run
from benchmarks.harness.workload import own_folder
from benchmarks.targets.fleet import Fleet, missing_engine
from tsctl.config.project import Project
from tsctl.host.progress import Progress
from tsctl.rollout.run.journal_lines import read

#: Half of the requests, until there is evidence enough: 98 of 100 canaries with 5 % of wrong answers are found in 2,000
#: requests, and 19 of 100 in those that the other canaries get (simulated).
MANY: Mapping[str, Any] = {"steps": [50, 100], "min_requests": 3000, "max_hold_s": 120}
#: Nearly all of what the workers can do: otherwise the step would wait, and nobody would meet the slow answers.
BUSY: Mapping[str, Any] = {"max_utilisation": 0.99}
#: In the order in which they are released.
CANARIES = (
    Canary("exceptions", "5 % of the requests raise"),
    Canary("slower", "a pause of 30 ms in place of 20"),
    Canary("flipped", "every 7 is answered as a 1"),
    Canary("leaks", "half of the requests leak 8 MiB"),
    Canary("slow_start", "loads for 12 s, and may for 6"),
    Canary("crashes", "its process ends while it loads"),
    Canary("wrong", "every answer is wrong, the golden ones too"),
    Canary("nan", "5 % of the answers are NaN"),
    Canary("hangs", "3 % of the requests never return"),
    Canary("same", "nothing: it is stable under another name", is_bad=False),
    Canary("unbatched", "computes requests one by one", engine="uvicorn", policy=BUSY),
    Canary("on_uvicorn", "nothing: stable's bytes on another engine", False, "uvicorn", STABLE),
    Canary("some_wrong", "every second 7 is a 1: 5 % of the answers", engine="triton", policy=MANY),
    Canary("on_triton", "nothing: stable's bytes on another engine", False, "triton", STABLE),
)
POLICY: Mapping[str, Any] = {
    "steps": [5, 20, 50, 100],
    "hold_s": 4,
    "max_hold_s": 60,
    "at_max_hold": "rollback",
    "min_requests": 100,
    "max_error_rate": 0.1,
    "alpha": 0.01,
    "slow_quantile": 0.9,
    "settle_s": 1,
    "max_memory_growth": 2.0,
    "tick_s": 0.5,
}
#: Seconds of load before the first release, from which stable's classes and latency are known, and after each verdict.
WARM_S, AFTER_S = 8.0, 1.0
#: Seconds until a request is in the gateway's log.
LOG_S = 1.0
ROLLBACK_S = Goal(2, is_ceiling=True)
NONE = Goal(0, is_ceiling=True)

COLUMNS = (
    "canary", "engine", "fault", "outcome", "signal", "requests", "on canary", "verdict s", "rollback s", "failed",
    "failed elsewhere", "misled",
)  # fmt: skip


def workloads(only: Sequence[str], kept: Path) -> dict[str, Run]:
    """The game day as the only workload of a run; its arguments are those of `run`."""
    return {"gameday": lambda job: run(job.project, job.progress, only, kept)}


@dataclass(frozen=True)
class GameDay(Result):
    """The figures, each canary's release, and the canaries whose engine is missing, each with the reason."""

    releases: tuple[Release, ...] = ()
    left_out: tuple[tuple[Canary, str], ...] = ()


def run(
    project: Project,
    progress: Progress,
    only: Sequence[str],
    kept: Path,
    policy: Mapping[str, Any] = POLICY,
    warm_s: float = WARM_S,
) -> GameDay:
    """Release every canary once, on a node and a gateway of their own.

    Args:
        only: versions.
        kept: folder for the journals, which are named by version.

    Raises:
        TsctlError: the node or the gateway does not serve, or cannot be reset after a release.
    """
    missing = {canary: missing_engine(project, canary.engine) for canary in CANARIES if canary.version in only}
    chosen = [canary for canary, why in missing.items() if not why]
    bodies = digit_bodies()
    with own_folder() as folder, gameday_site(project, folder / "own", chosen, policy, progress) as fleet:
        with progress.step("users ask the stable version") as step:
            with users(fleet.address(f"/predictions/{MODEL}"), bodies, "warm") as load:
                time.sleep(warm_s)
            step.done(f"{len(load.answers):,} requests, {len(load.failed)} failed")
        classes = _classes(load.answers)
        ask = partial(users, fleet.address(f"/predictions/{MODEL}"), bodies)
        releases = [
            released(fleet, canary, policy, ask, classes, kept / f"{canary.version}.jsonl", progress)
            for canary in chosen
        ]
    settings = {"connections": CONNECTIONS, "pause_s": PAUSE_S, "route": ROUTE, "policy": dict(policy)}
    title = "canaries that are bad on purpose"
    left_out = tuple((canary, why) for canary, why in missing.items() if why)
    notes = tuple(f"{canary.version} was not released: {why}" for canary, why in left_out)
    return GameDay("gameday", title, settings, {}, figures(releases), notes, tuple(releases), left_out)


def figures(releases: Sequence[Release]) -> list[Figure]:
    """Totals over all releases."""
    bad = [release.is_right for release in releases if release.canary.is_bad]
    same = [release.is_right for release in releases if not release.canary.is_bad]
    seconds = [release.rollback_s for release in releases if release.rollback_s is not None]
    rollback = [Figure("slowest rollback in force", "s", (max(seconds),), ROLLBACK_S)] if seconds else []
    elsewhere = sum(release.failed_elsewhere for release in releases)
    return [
        Figure("bad canaries rolled back", "canaries", (sum(bad),), Goal(len(bad))),
        Figure("identical canaries promoted", "canaries", (sum(same),), Goal(len(same))),
        *rollback,
        Figure("requests of users", "requests", (sum(release.sent for release in releases),)),
        Figure("failed requests", "requests", (sum(release.failed for release in releases),)),
        Figure("failed requests that no bad canary answered", "requests", (elsewhere,), NONE),
    ]


def releases_of(results: Sequence[Result]) -> list[Release]:
    """Every canary's release."""
    return [release for result in results if isinstance(result, GameDay) for release in result.releases]


def rows(results: Sequence[Result]) -> list[tuple[object, ...]]:
    """A row of COLUMNS for each canary; where its engine is missing, the outcome is what installs it."""
    left_out = [pair for result in results if isinstance(result, GameDay) for pair in result.left_out]
    empty = (None,) * (len(COLUMNS) - 4)
    return [
        *map(cells, releases_of(results)),
        *((canary.version, canary.engine, canary.fault, why, *empty) for canary, why in left_out),
    ]


def cells(release: Release) -> tuple[object, ...]:
    """A row of COLUMNS."""
    return (
        release.canary.version, release.canary.engine, release.canary.fault, release.outcome, release.signal or None,
        release.requests, release.on_canary, _rounded(release.seconds), _rounded(release.rollback_s), release.failed,
        release.failed_elsewhere, release.misled,
    )  # fmt: skip


def wrong_verdicts(releases: Sequence[Release]) -> list[str]:
    """The releases that ended wrongly, in words."""
    return [
        f"{release.canary.version} ({release.canary.fault}) was {release.outcome}"
        f"{': ' + release.why if release.why else ''}"
        for release in releases
        if not release.is_right
    ]


def released(
    fleet: Fleet,
    canary: Canary,
    policy: Mapping[str, Any],
    ask: Callable[[str], AbstractContextManager[Load]],
    classes: dict[str, str],
    kept: Path,
    progress: Progress,
) -> Release:
    """Release the canary and reset the site; stable's answers meanwhile are added to `classes`.

    Args:
        ask: users that ask while its block runs; they are named by its argument.
        kept: the file for the journal.
    """
    with progress.step(f"{canary.version}: {canary.fault}") as step:
        set_policy(fleet, {**policy, **canary.policy})
        began = time.time() - time.perf_counter()
        with ask(canary.version) as load:
            journal = release(fleet, canary.version, step)
            time.sleep(AFTER_S)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(journal, kept)
        classes |= _classes(answer for answer in load.answers if answer.version == STABLE)
        logged = _logged(fleet, load.answers)
        ended = release_of(canary, read(journal), load.answers, logged, classes, began)
        step.done(_narrate(ended))
        reset(fleet, canary.version, step)
    return ended


def _classes(answers: Iterable[Answer]) -> dict[str, str]:
    return {digit_of(answer): answer.predicted for answer in answers if answer.status == 200}


def _logged(fleet: Fleet, answers: Sequence[Answer]) -> dict[str, str]:
    unknown = {answer.user for answer in answers if not answer.version}
    if not unknown:
        return {}
    time.sleep(LOG_S)
    return logged_versions(fleet, unknown)


def _narrate(release: Release) -> str:
    signal = f" by {release.signal}" if release.signal else ""
    after = (
        "" if release.seconds is None else f" after {release.on_canary:,} of its requests and {release.seconds:.1f} s"
    )
    rollback = f", in force {release.rollback_s:.1f} s later" if release.rollback_s is not None else ""
    wrong = "" if release.is_right else "WRONG: "
    return f"{wrong}{release.outcome}{signal}{after}{rollback}; {release.failed} failed"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
