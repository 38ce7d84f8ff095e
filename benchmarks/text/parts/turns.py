"""What all parts share: a turn of users who ask one target, and the figures of such turns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from benchmarks.harness.figures import Figure, Goal
from benchmarks.harness.run import Job
from benchmarks.text.load import Measured, Plan
from benchmarks.text.prompts import Lengths, bodies
from benchmarks.text.statistics import Served
from benchmarks.text.table import Row
from benchmarks.text.targets import Measure

#: Seconds of load before every turn that are not counted; the users begin one after the other meanwhile.
LEAD_S = 2.0
#: Bodies of a turn, more than any turn sends.
BODIES = 2000
#: Tokens of prompts and answers, where all users do the same.
SHORT = Lengths((16, 64), (32, 96))
NONE = Goal(0, is_ceiling=True)
#: The 99th percentile of gaps, as a multiple of their median.
BURST = Goal(3.0, is_ceiling=True)


@dataclass
class Turns:
    """Takes turns and keeps their rows. Every turn has prompts of its own, so that no prefix cache knows them."""

    job: Job
    lengths: Lengths = SHORT
    rows: list[Row] = field(default_factory=list)
    _seeds: Iterator[int] = field(default_factory=lambda: count(1))

    def take(self, target: str, measure: Measure, users: int, seconds: float) -> Served:
        """So many users ask again as soon as they are answered."""
        sent = bodies(self.lengths, BODIES, next(self._seeds) * 10)
        plan = Plan(sent, users, LEAD_S + seconds, LEAD_S)
        with self.job.progress.step(f"{target}: {users} users") as step:
            seen = self.keep(target, str(users), measure(plan))
            step.done(summary(seen))
        return seen

    def keep(self, target: str, users: str, measured: Measured, lead_s: float = LEAD_S) -> Served:
        """Add the row of a measurement."""
        seen = measured.served(lead_s)
        self.rows.append(Row(target, users, seen, measured.cpu_share, measured.spent_ms))
        return seen


def summary(seen: Served) -> str:
    """One line for who waits."""
    failed = f", {seen.failed} failed" if seen.failed else ""
    return f"{seen.tokens_s:.0f} tokens/s, first {seen.first.p50:.0f} ms, {seen.token.p50:.1f} ms a token{failed}"


def ratios(name: str, seen: Sequence[Served], others: Sequence[Served], goal: Goal | None = None) -> Figure:
    """Tokens/s of the first as a share of the second's, round by round."""
    values = tuple(one.tokens_s / other.tokens_s for one, other in zip(seen, others, strict=True) if other.tokens_s)
    failed = sum(one.failed for one in [*seen, *others])
    return Figure(name, "times", values, goal, failed, "" if values else "nothing was served")


def bursts(name: str, seen: Sequence[Served], goal: Goal | None = BURST) -> Figure:
    """How evenly tokens come, round by round."""
    values = tuple(one.burst for one in seen if not math.isnan(one.burst))
    return Figure(name, "times", values, goal, sum(one.failed for one in seen), "" if values else "no gaps")


def spent_shares(name: str, rows: Sequence[Row], others: Sequence[Row]) -> Figure:
    """Processor time of a token of the second targets as a share of the first's, round by round.

    It is what tokens/s would be of the second's on cores that do nothing else, and other work on the machine hardly
    changes it.
    """
    pairs = zip(rows, others, strict=True)
    values = tuple(sum(o.spent_ms.values()) / spent for r, o in pairs if (spent := sum(r.spent_ms.values())))
    return Figure(name, "times", values, why_not="" if values else "no processor time is known")


def clients(rows: Sequence[Row]) -> Figure:
    """The most that the client took of a core in any turn."""
    return Figure("processor time of the client, of a core, at most", "share", (max(row.client_cpu for row in rows),))


def by_users(levels: Mapping[int, Served]) -> str:
    """Tokens/s at each number of users."""
    return ", ".join(f"{users} users {seen.tokens_s:.0f} tokens/s" for users, seen in levels.items())
