"""A game day: versions that are bad on purpose are released under load, and must be rolled back; one that is not, must
be promoted."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gameday.outcomes import Canary, Row, row
from benchmarks.gameday.site import MODEL, ROUTE, STABLE, bring_back, gameday_site, release, versions_of
from benchmarks.gameday.users import CONNECTIONS, PAUSE_S, digit_bodies, picture_of, users
from benchmarks.harness.client import Answer
from benchmarks.harness.figures import Figure, Result, Target
from benchmarks.harness.workload import own_folder
from benchmarks.targets.fleet import Fleet
from tsctl.config.project import Project
from tsctl.host.progress import Progress
from tsctl.rollout.run.journal import read

if TYPE_CHECKING:
    from benchmarks.harness.run import Run

#: In the order in which they are released.
CANARIES = (
    Canary("exceptions", "5 % of the requests raise"),
    Canary("slower", "a pause of 30 ms in place of 20"),
    Canary("flipped", "every 7 is told as a 1"),
    Canary("leaks", "half of the requests leak 8 MiB"),
    Canary("slow_start", "loads for 12 s, and may for 6"),
    Canary("crashes", "its process ends while it loads"),
    Canary("wrong", "every answer is wrong, the golden ones too"),
    Canary("nan", "5 % of the answers are NaN"),
    Canary("hangs", "3 % of the requests never return"),
    Canary("same", "nothing: it is stable under another name", is_bad=False),
)
POLICY: Mapping[str, Any] = {
    "steps": [5, 25, 50, 100],
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
#: Load before the first release, by which classes and times of stable are known, and after each verdict.
WARM_S, AFTER_S = 8.0, 1.0
#: The gateway's log is written this late.
LOG_S = 1.0
IN_FORCE = Target(2, is_ceiling=True)
NONE = Target(0, is_ceiling=True)

COLUMNS = (
    "canary", "what is bad", "outcome", "by", "requests", "on canary", "after s", "back s", "failed", "not by it",
    "misled",
)  # fmt: skip


def workloads(only: Sequence[str], kept: Path) -> dict[str, Run]:
    """The game day as the one workload of a run; its arguments are those of `run`."""
    return {"gameday": lambda project, _, rounds, seconds, progress: run(project, progress, only, kept)}


@dataclass(frozen=True)
class GameDay(Result):
    """The figures, and a row for each canary."""

    canaries: tuple[Row, ...] = ()


def run(
    project: Project,
    progress: Progress,
    only: Sequence[str],
    kept: Path,
    policy: Mapping[str, Any] = POLICY,
    warm_s: float = WARM_S,
) -> GameDay:
    """Every canary is released once, on a node and a gateway of its own.

    Args:
        only: versions; none: all.
        kept: where the journals lie afterwards, by version.

    Raises:
        TsctlError: the node or the gateway does not serve, or cannot be brought back after a release.
    """
    chosen = [one for one in CANARIES if not only or one.version in only]
    bodies = digit_bodies()
    versions = [one.version for one in chosen]
    with own_folder() as folder, gameday_site(project, folder / "own", versions, policy, progress) as fleet:
        with progress.step("users ask the stable version") as step:
            with users(fleet.address(f"/predictions/{MODEL}"), bodies, "warm") as load:
                time.sleep(warm_s)
            step.done(f"{len(load.answers):,} requests, {len(load.failed)} failed")
        known = {picture_of(one): one.predicted for one in load.answers if one.status == 200}
        rows = [_released(fleet, canary, bodies, known, kept, progress) for canary in chosen]
    settings = {"connections": CONNECTIONS, "pause_s": PAUSE_S, "route": ROUTE, "policy": dict(policy)}
    return GameDay("gameday", "canaries that are bad on purpose", settings, {}, figures(rows), (), tuple(rows))


def figures(rows: Sequence[Row]) -> list[Figure]:
    """What all releases came to together."""
    bad = {one.version for one in CANARIES if one.is_bad}
    caught = [one.is_right for one in rows if one.canary in bad]
    promoted = [one.is_right for one in rows if one.canary not in bad]
    back = [one.back_s for one in rows if one.back_s is not None]
    found = [
        Figure("bad canaries that were rolled back", "canaries", (sum(caught),), Target(len(caught))),
        Figure("identical canaries that were promoted", "canaries", (sum(promoted),), Target(len(promoted))),
    ]
    if back:
        found.append(Figure("a rollback is in force after, slowest", "s", (max(back),), IN_FORCE))
    others, failed, met = (sum(getattr(one, name) for one in rows) for name in ("others_failed", "failed", "met"))
    return [
        *found,
        Figure("requests of users", "requests", (met,)),
        Figure("failed, all together", "requests", (failed,)),
        Figure("failed that no bad canary answered", "requests", (others,), NONE),
    ]


def rows_of(results: Sequence[Result]) -> list[Row]:
    """Every canary's row."""
    return [row for result in results if isinstance(result, GameDay) for row in result.canaries]


def cells(one: Row) -> tuple[object, ...]:
    """A row of COLUMNS."""
    return (
        one.canary, one.what, one.outcome, one.signal or None, one.requests, one.on_canary, _shown(one.seconds),
        _shown(one.back_s), one.failed, one.others_failed, one.misled,
    )  # fmt: skip


def not_right(rows: Sequence[Row]) -> list[str]:
    """What a game day must not show, in words."""
    return [
        f"{one.canary} ({one.what}) was {one.outcome}{': ' + one.why if one.why else ''}"
        for one in rows
        if not one.is_right
    ]


def _released(
    fleet: Fleet, canary: Canary, bodies: Sequence[bytes], known: dict[str, str], kept: Path, progress: Progress
) -> Row:
    """The canary was released and is gone again; stable's answers are added to what is known."""
    with progress.step(f"{canary.version}: {canary.what}") as step:
        began = time.time() - time.perf_counter()
        with users(fleet.address(f"/predictions/{MODEL}"), bodies, canary.version) as load:
            journal = release(fleet, canary.version, step)
            time.sleep(AFTER_S)
        kept.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(journal, kept / f"{canary.version}.jsonl")
        known |= {picture_of(a): a.predicted for a in load.answers if (a.status, a.version) == (200, STABLE)}
        found = row(canary, read(journal), load.answers, _logged(fleet, load.answers), known, began)
        step.done(_told(found))
        bring_back(fleet, canary.version, step)
    return found


def _logged(fleet: Fleet, answers: Sequence[Answer]) -> dict[str, str]:
    unknown = {one.user for one in answers if not one.version}
    if not unknown:
        return {}
    time.sleep(LOG_S)
    return versions_of(fleet, unknown)


def _told(one: Row) -> str:
    by = f" by {one.signal}" if one.signal else ""
    when = f" after {one.on_canary:,} of its requests and {one.seconds:.1f} s" if one.seconds is not None else ""
    back = f", in force {one.back_s:.1f} s later" if one.back_s is not None else ""
    return f"{'' if one.is_right else 'WRONG: '}{one.outcome}{by}{when}{back}; {one.failed} failed"


def _shown(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
