"""What a policy can see with the traffic there is, before a rollout begins. Pure.

What a step can see is asked of the step alone, as if no earlier one had seen anything. How long a known fault lasts is
read off expected counts, step after step: half of the rollouts end sooner.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from math import floor, inf
from typing import Any

from tsctl.config.policy import RolloutPolicy
from tsctl.config.weights import TOTAL, percent
from tsctl.rollout.decide.statistics import RateProcess, RatioProcess
from tsctl.rollout.forecast.power import fails, first, requests_to_pass, smallest_rate

#: The faults that users are counted for: multiples of stable's rate of errors, and a rate.
MULTIPLES, RATE = (2, 10), 0.05
#: Fewer requests than this tell little of those to come.
FEW = 100


@dataclass(frozen=True)
class Traffic:
    """What a model's route gets.

    Args:
        requests_per_s: of all versions.
        error_rate: of the stable version, as the policy counts errors.
        slow_share: of stable's answers, by what slow will mean.
        since_s: how long that was looked at.
        requests: that were seen in this time.
    """

    requests_per_s: float
    error_rate: float
    slow_share: float
    since_s: float
    requests: int


@dataclass(frozen=True)
class Step:
    """One step of a canary that is like stable, and what the step can see.

    Args:
        weight: in hundredths of a percent.
        requests: of the route until it passes; None where it never does.
        on_canary: those of them that the canary serves.
        seconds: that it lasts; None where it never passes.
        error_rate: the smallest one of the canary that is seen in four of five rollouts; None where none is.
        error_ratio: how many times stable's that is; None where stable has no errors.
        slow_share: the smallest one that is seen; None where none is.
    """

    weight: int
    requests: int | None
    on_canary: int | None
    seconds: float | None
    error_rate: float | None
    error_ratio: float | None
    slow_share: float | None


class Fate(StrEnum):
    """What becomes of a faulty canary."""

    ROLLED_BACK = "rolled back"
    PROMOTED = "promoted"
    HELD = "held"  # at a step that it does not pass, until a person decides


@dataclass(frozen=True)
class Fault:
    """A canary that fails too often, and who meets it before its rollout is over.

    Args:
        weight: of the canary then, in hundredths of a percent.
        requests: of the route until then.
        on_canary: those of them that the canary served.
        failed: those of these that failed.
        seconds: since the first step began.
    """

    error_rate: float
    fate: Fate
    weight: int
    requests: int
    on_canary: int
    failed: int
    seconds: float


@dataclass(frozen=True)
class Foresight:
    """What to expect of a rollout.

    Args:
        seconds: until a canary that is like stable is promoted; None where it never is.
        warnings: sentences for a person.
    """

    traffic: Traffic
    steps: tuple[Step, ...]
    faults: tuple[Fault, ...]
    seconds: float | None
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Part:
    """So many requests of the canary at one weight; infinite for a step that never passes."""

    weight: int
    on_canary: float

    @property
    def requests(self) -> float:
        """Of the route."""
        return self.on_canary * TOTAL / self.weight

    def seconds(self, traffic: Traffic) -> float:
        return self.requests / traffic.requests_per_s if traffic.requests_per_s else inf


def foresee(policy: RolloutPolicy, traffic: Traffic, is_by_user: bool = False) -> Foresight:
    """What the policy's steps need and see with this traffic.

    Args:
        is_by_user: whether the route divides users, who then count once for each kind of event; it is only told.
    """
    parts = lasts(policy, traffic, traffic.error_rate)
    steps = tuple(_step(policy, traffic, part) for part in parts)
    faults = tuple(exposure(policy, traffic, rate) for rate in _faulty(traffic))
    seconds = sum(part.seconds(traffic) for part in parts)
    return Foresight(traffic, steps, faults, _finite(seconds), tuple(_warnings(policy, traffic, steps, is_by_user)))


def lasts(policy: RolloutPolicy, traffic: Traffic, error_rate: float) -> tuple[Part, ...]:
    """How long each step lasts for a canary with this rate of errors that nothing fails.

    A step passes when it was held for its time, the canary had its least number of requests in it, and a confidence
    sequence over all its requests since the rollout began shows its rate of errors below the policy's maximum.
    """
    needed = requests_to_pass(error_rate, policy.max_error_rate, policy.alpha)
    parts: list[Part] = []
    before = 0.0
    for weight in policy.weights:
        held = policy.hold_s * traffic.requests_per_s * weight / TOTAL
        parts.append(Part(weight, max(policy.min_requests, needed - before, held)))
        before += parts[-1].on_canary if parts[-1].on_canary < inf else 0
    return tuple(parts)


def exposure(policy: RolloutPolicy, traffic: Traffic, error_rate: float) -> Fault:
    """Who meets a canary that fails so often, if all counts are as expected."""
    course: tuple[Part, ...] = ()
    for part in lasts(policy, traffic, error_rate):
        longest = policy.max_hold_s * traffic.requests_per_s * part.weight / TOTAL
        most = min(part.on_canary, longest)
        at = _failed_after(policy, traffic, error_rate, course, Part(part.weight, most))
        course = (*course, Part(part.weight, most if at is None else at))
        if at is not None:
            return _fault(traffic, error_rate, Fate.ROLLED_BACK, course)
        if part.on_canary > longest:
            fate = Fate.ROLLED_BACK if policy.at_max_hold == "rollback" else Fate.HELD
            return _fault(traffic, error_rate, fate, course)
    return _fault(traffic, error_rate, Fate.PROMOTED, course)


def _failed_after(
    policy: RolloutPolicy, traffic: Traffic, error_rate: float, course: tuple[Part, ...], last: Part
) -> int | None:
    """Requests of the canary in the last part until the errors and the limit fail it; None where they do not."""

    def is_failed(on_canary: int) -> bool:
        errors, limit = _expected(policy, traffic, error_rate, (*course, Part(last.weight, on_canary)))
        return fails(policy, "errors", errors.log_e, limit.log_e)

    return first(is_failed, floor(last.on_canary))


def _expected(
    policy: RolloutPolicy, traffic: Traffic, error_rate: float, course: Sequence[Part]
) -> tuple[RatioProcess, RateProcess]:
    """The evidence of the errors that are expected, counted whole."""
    process, on_canary, elsewhere = RatioProcess(), 0.0, 0.0
    for part in course:
        served, others = on_canary + part.on_canary, elsewhere + part.requests - part.on_canary
        failed = round(served * error_rate) - round(on_canary * error_rate)
        if part.weight < TOTAL:
            failed_others = round(others * traffic.error_rate) - round(elsewhere * traffic.error_rate)
            process = process.seen(failed, failed_others, part.weight / TOTAL)
        on_canary, elsewhere = served, others
    trials = round(on_canary)
    return process, RateProcess(policy.max_error_rate).seen(min(round(on_canary * error_rate), trials), trials)


def _step(policy: RolloutPolicy, traffic: Traffic, part: Part) -> Step:
    seconds = part.seconds(traffic)
    requests = traffic.requests_per_s * min(seconds, policy.max_hold_s)
    settled = max(0.0, requests - policy.settle_s * traffic.requests_per_s)
    error_rate = smallest_rate(policy, "errors", traffic.error_rate, part.weight, requests)
    is_passed = seconds < inf
    return Step(
        weight=part.weight,
        requests=round(part.requests) if is_passed else None,
        on_canary=round(part.on_canary) if is_passed else None,
        seconds=_finite(seconds),
        error_rate=error_rate,
        error_ratio=error_rate / traffic.error_rate if error_rate is not None and traffic.error_rate else None,
        slow_share=smallest_rate(policy, "slow", traffic.slow_share, part.weight, settled)
        if "slow" in policy.signals
        else None,
    )


def _fault(traffic: Traffic, error_rate: float, fate: Fate, course: Sequence[Part]) -> Fault:
    on_canary = sum(part.on_canary for part in course)
    return Fault(
        error_rate=error_rate,
        fate=fate,
        weight=course[-1].weight,
        requests=round(sum(part.requests for part in course)),
        on_canary=round(on_canary),
        failed=round(on_canary * error_rate),
        seconds=sum(part.seconds(traffic) for part in course),
    )


def _faulty(traffic: Traffic) -> list[float]:
    """Rates of errors of the canaries that users are counted for, growing; none without traffic."""
    rates = {traffic.error_rate * times for times in MULTIPLES} | {RATE}
    return sorted(rate for rate in rates if traffic.error_rate < rate < 1 and traffic.requests_per_s)


def _finite(seconds: float) -> float | None:
    return seconds if seconds < inf else None


def _warnings(policy: RolloutPolicy, traffic: Traffic, steps: Sequence[Step], is_by_user: bool) -> Iterator[str]:
    """What the policy cannot do with this traffic, and what it was never meant to."""
    minutes = f"the last {traffic.since_s / 60:.0f} min"
    if not traffic.requests_per_s:
        yield f"No request came in {minutes}: nothing can be seen, and no step passes without traffic."
        return
    if traffic.requests < FEW:
        yield f"Only {traffic.requests} requests came in {minutes}, and all figures stand on them."
    if traffic.error_rate >= policy.max_error_rate:
        yield (
            f"Stable itself fails {traffic.error_rate:.2%} of its requests, and max_error_rate is "
            f"{policy.max_error_rate:.2%}: a canary that is no worse never passes, and may be rolled back."
        )
    else:
        yield from (said for step in steps for said in _step_warnings(policy, step))
    if is_by_user:
        yield "The route is sticky: a user counts once for each kind of event, so that faults are seen later than this."
    if len(steps) == 1:
        yield "The only step is 100%: the canary is compared with nobody, and only max_error_rate is judged."
    else:
        yield "At 100% there is nobody to compare with: only max_error_rate is judged there."


def _step_warnings(policy: RolloutPolicy, step: Step) -> Iterator[str]:
    at = f"The step at {percent(step.weight)}"
    if step.seconds is not None and step.seconds > policy.max_hold_s:
        then = "then the canary is rolled back" if policy.at_max_hold == "rollback" else "then it waits for a person"
        yield (
            f"{at} needs {step.seconds / 60:,.0f} min for its requests, "
            f"and max_hold_s is {policy.max_hold_s / 60:,.0f} min; {then}."
        )
    if step.weight == TOTAL:
        return
    if step.error_rate is None:
        yield f"{at} passes before errors could be seen, even if every request of the canary failed."
    elif step.error_rate > policy.max_error_rate:
        yield (
            f"{at} sees errors only from {step.error_rate:.2%} on: a canary that is worse than stable, "
            f"and below max_error_rate of {policy.max_error_rate:.2%}, passes it. A longer hold_s sees more."
        )
    if "slow" in policy.signals and step.slow_share is None:
        yield f"{at} passes before slow answers could be seen, even if every answer of the canary was slow."
