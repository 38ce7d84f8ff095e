"""Forecasts what a policy can see with the present traffic, before a rollout begins. Pure.

What a step can see is computed for the step alone, as if no earlier step had seen anything. How long a known fault
lasts is read off expected counts, step after step: half of the rollouts end sooner.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from math import floor, inf

from tsctl.config.policy import RolloutPolicy
from tsctl.config.weights import TOTAL, percent
from tsctl.rollout.forecast.power import answers_needed, fails, labels_needed, requests_to_pass, smallest_rate
from tsctl.statistics.search import first
from tsctl.statistics.sequential import RateProcess, RatioProcess

#: Error rates of the forecast faults: multiples of stable's, and a fixed one.
MULTIPLES, RATE = (2, 10), 0.05
#: Share of wrong ones among stable's labelled items, where it has none.
USUAL_WRONG = 0.05
#: Shares of stable's answers and of a faulty canary's: that only a limit ends, and that have about one length.
FINISH_FAULT, LENGTH_FAULT = (0.02, 0.1), (0.1, 0.3)
#: With a smaller share of the predictions in classes that are judged one by one, a warning says so.
FEW_CLASSES = 0.5
#: With fewer requests than this, a warning says how few they are.
FEW = 100


@dataclass(frozen=True)
class RecentTraffic:
    """The recent requests of a model's route."""

    requests_per_s: float  # of all versions
    error_rate: float  # of the stable version, as the policy counts errors
    slow_share: float  # of stable's answers, as the policy defines slow
    since_s: float  # length of the observed period
    requests: int  # in this period
    class_share: float | None = (
        None  # of stable's predictions, those of classes that are judged one by one; None: no class
    )


@dataclass(frozen=True)
class StepForecast:
    """One step of a canary that is like stable, and the smallest faults that the step can see."""

    weight: int  # in hundredths of a percent
    requests: int | None  # of the route until the step passes; None if it never does, and so for the next two
    on_canary: int | None  # the canary's part of them
    seconds: float | None  # until the step passes
    error_rate: float | None  # the smallest of a canary that is seen in four of five rollouts; None if none is
    error_ratio: float | None  # the same as a multiple of stable's; None if stable has no errors
    slow_share: float | None  # the smallest that is seen; None if none is


@dataclass(frozen=True)
class LabelForecast:
    """A canary whose labelled items are wrong too often."""

    rate: float  # of the canary's labelled items that are wrong
    base: float  # of stable's
    items: int | None  # labelled ones of each version until it is seen in four of five rollouts; None: too many


@dataclass(frozen=True)
class TextForecast:
    """A fault of a language model's answers, at the first step's weight."""

    signal: str
    rate: float  # of the canary's answers that are events, or of one class
    base: float  # of stable's
    weight: int  # of the canary, in hundredths of a percent
    on_canary: int | None  # answers until it is seen in four of five rollouts; None: too many
    seconds: float | None  # with the present traffic; None: too many, or no traffic


class Fate(StrEnum):
    """How the rollout of a faulty canary ends."""

    ROLLED_BACK = "rolled back"
    PROMOTED = "promoted"
    HELD = "held"  # at a step that it does not pass, until a person decides


@dataclass(frozen=True)
class FaultForecast:
    """A canary with too many errors, and the requests that it serves before its rollout ends."""

    error_rate: float
    fate: Fate
    weight: int  # of the canary at the end, in hundredths of a percent
    requests: int  # of the route until then
    on_canary: int  # the canary's part of them
    failed: int  # errors among the canary's
    seconds: float  # since the first step began


@dataclass(frozen=True)
class Forecast:
    """The expected course of a rollout."""

    traffic: RecentTraffic
    steps: tuple[StepForecast, ...]
    faults: tuple[FaultForecast, ...]
    seconds: float | None  # until a canary that is like stable is promoted; None if it never is
    labels: tuple[LabelForecast, ...]  # none where the policy does not judge labels
    warnings: tuple[str, ...]  # sentences for people
    texts: tuple[TextForecast, ...] = ()  # of a language model


@dataclass(frozen=True)
class ExpectedStep:
    """The expected requests of the canary at one weight; infinite if the step never passes."""

    weight: int
    on_canary: float

    @property
    def requests(self) -> float:
        """Of the route."""
        return self.on_canary * TOTAL / self.weight

    def seconds(self, traffic: RecentTraffic) -> float:
        return self.requests / traffic.requests_per_s if traffic.requests_per_s else inf


def forecast_rollout(
    policy: RolloutPolicy,
    traffic: RecentTraffic,
    is_by_user: bool = False,
    wrong_share: float | None = None,
    is_text: bool = False,
) -> Forecast:
    """Forecast what the policy's steps need and see with this traffic.

    Args:
        wrong_share: of stable's labelled items; None: it has none, and USUAL_WRONG stands for it.
        is_by_user: whether the route divides users, who then count once for each kind of event; only adds a warning.
        is_text: whether the model is a language model.
    """
    expected = expected_steps(policy, traffic, traffic.error_rate)
    steps = tuple(_step(policy, traffic, step) for step in expected)
    faults = tuple(forecast_fault(policy, traffic, rate) for rate in _fault_rates(traffic))
    seconds = sum(step.seconds(traffic) for step in expected)
    warnings = [*_warnings(policy, traffic, steps, is_by_user), *_label_warnings(policy, is_by_user, wrong_share)]
    labels = tuple(_label_forecasts(policy, wrong_share)) if "labels" in policy.signals else ()
    texts = tuple(_text_forecasts(policy, traffic)) if is_text else ()
    return Forecast(traffic, steps, faults, _finite(seconds), labels, tuple(warnings), texts)


def _text_forecasts(policy: RolloutPolicy, traffic: RecentTraffic) -> Iterator[TextForecast]:
    """For each signal of texts a fault of some answers, and one of all."""
    slow = 1 - policy.slow_quantile
    faults = {"slow": (slow, 4 * slow), "tokens": (slow, 4 * slow), "finish": FINISH_FAULT, "length": LENGTH_FAULT}
    weight = policy.weights[0]
    if weight == TOTAL:
        return
    for signal, (base, some) in faults.items():
        for rate in (some, 1.0) if signal in policy.signals and some < 1 else ():
            needed = answers_needed(policy, signal, base, rate, weight)
            per_s = traffic.requests_per_s * weight / TOTAL
            yield TextForecast(signal, rate, base, weight, needed, needed / per_s if needed and per_s else None)


def _label_forecasts(policy: RolloutPolicy, wrong_share: float | None) -> Iterator[LabelForecast]:
    base = USUAL_WRONG if wrong_share is None else wrong_share
    for rate in sorted({base * 1.5, base * 2, base + RATE}):
        if base < rate < 1:
            yield LabelForecast(rate, base, labels_needed(policy, base, rate))


def _label_warnings(policy: RolloutPolicy, is_by_user: bool, wrong_share: float | None) -> Iterator[str]:
    if "labels" not in policy.signals:
        return
    if is_by_user:
        yield "Labels are not compared on a sticky route: its users are no single items."
    if wrong_share is None:
        yield (
            f"Stable has no labelled items: figures of labels are for {USUAL_WRONG:.0%} wrong ones. 'tsctl labels add'"
            " adds labels."
        )
    if not policy.min_labels:
        yield "min_labels is 0: steps pass before labels come. With it, a step waits for labelled items of the canary."


def expected_steps(policy: RolloutPolicy, traffic: RecentTraffic, error_rate: float) -> tuple[ExpectedStep, ...]:
    """Compute the length of each step for a canary with this error rate that is not rolled back.

    A step passes after its hold time and its least number of requests, once a confidence sequence over all requests of
    the canary since the rollout began shows an error rate below the policy's maximum.
    """
    needed = requests_to_pass(error_rate, policy.max_error_rate, policy.alpha)
    steps: list[ExpectedStep] = []
    before = 0.0
    for weight in policy.weights:
        held = policy.hold_s * traffic.requests_per_s * weight / TOTAL
        steps.append(ExpectedStep(weight, max(policy.min_requests, needed - before, held)))
        before += steps[-1].on_canary if steps[-1].on_canary < inf else 0
    return tuple(steps)


def forecast_fault(policy: RolloutPolicy, traffic: RecentTraffic, error_rate: float) -> FaultForecast:
    """Forecast the rollout of a canary with this error rate, if all counts are as expected."""
    fate, steps = Fate.PROMOTED, list[ExpectedStep]()
    for step in expected_steps(policy, traffic, error_rate):
        longest = policy.max_hold_s * traffic.requests_per_s * step.weight / TOTAL
        most = min(step.on_canary, longest)
        is_failed = partial(_is_failed, policy, traffic, error_rate, tuple(steps), step.weight)
        failed_at = first(is_failed, floor(most))
        steps.append(ExpectedStep(step.weight, most if failed_at is None else failed_at))
        is_too_long = step.on_canary > longest
        if failed_at is not None or (is_too_long and policy.at_max_hold == "rollback"):
            fate = Fate.ROLLED_BACK
        elif is_too_long:
            fate = Fate.HELD
        if fate is not Fate.PROMOTED:
            break
    on_canary = sum(step.on_canary for step in steps)
    return FaultForecast(
        error_rate=error_rate,
        fate=fate,
        weight=steps[-1].weight,
        requests=round(sum(step.requests for step in steps)),
        on_canary=round(on_canary),
        failed=round(on_canary * error_rate),
        seconds=sum(step.seconds(traffic) for step in steps),
    )


def _is_failed(
    policy: RolloutPolicy,
    traffic: RecentTraffic,
    error_rate: float,
    before: tuple[ExpectedStep, ...],
    weight: int,
    requests: int,
) -> bool:
    """Whether so many requests of the canary in a step after others fail it, by errors or by the error rate cap."""
    process, on_canary, elsewhere = RatioProcess(), 0.0, 0.0
    for step in (*before, ExpectedStep(weight, requests)):
        served, others = on_canary + step.on_canary, elsewhere + step.requests - step.on_canary
        if step.weight < TOTAL:  # expected errors, rounded to whole ones
            failed = round(served * error_rate) - round(on_canary * error_rate)
            failed_others = round(others * traffic.error_rate) - round(elsewhere * traffic.error_rate)
            process = process.seen(failed, failed_others, step.weight / TOTAL)
        on_canary, elsewhere = served, others
    trials = round(on_canary)
    cap = RateProcess(policy.max_error_rate).seen(min(round(on_canary * error_rate), trials), trials)
    return fails(policy, "errors", process.log_e, cap.log_e)


def _step(policy: RolloutPolicy, traffic: RecentTraffic, expected: ExpectedStep) -> StepForecast:
    seconds, weight = expected.seconds(traffic), expected.weight
    requests = traffic.requests_per_s * min(seconds, policy.max_hold_s)
    settled = max(0.0, requests - policy.settle_s * traffic.requests_per_s)
    error_rate = smallest_rate(policy, "errors", traffic.error_rate, weight, requests)
    is_slow_judged = "slow" in policy.signals
    return StepForecast(
        weight=weight,
        requests=round(expected.requests) if seconds < inf else None,
        on_canary=round(expected.on_canary) if seconds < inf else None,
        seconds=_finite(seconds),
        error_rate=error_rate,
        error_ratio=error_rate / traffic.error_rate if error_rate is not None and traffic.error_rate else None,
        slow_share=smallest_rate(policy, "slow", traffic.slow_share, weight, settled) if is_slow_judged else None,
    )


def _fault_rates(traffic: RecentTraffic) -> list[float]:
    """Error rates of the forecast faults, ascending; none without traffic."""
    rates = {traffic.error_rate * multiple for multiple in MULTIPLES} | {RATE}
    return sorted(rate for rate in rates if traffic.error_rate < rate < 1 and traffic.requests_per_s)


def _finite(seconds: float) -> float | None:
    return seconds if seconds < inf else None


def _warnings(
    policy: RolloutPolicy, traffic: RecentTraffic, steps: Sequence[StepForecast], is_by_user: bool
) -> Iterator[str]:
    period = f"the last {traffic.since_s / 60:.0f} min"
    if not traffic.requests_per_s:
        yield f"No requests in {period}: without traffic nothing can be seen, and no step passes."
        return
    if traffic.requests < FEW:
        yield f"All figures are based on only {traffic.requests} requests in {period}."
    if traffic.error_rate >= policy.max_error_rate:
        yield (
            f"Stable's own error rate is {traffic.error_rate:.2%}, and max_error_rate is {policy.max_error_rate:.2%}: "
            "a canary that is no worse never passes, and may be rolled back."
        )
    else:
        for step in steps:
            yield from _step_warnings(policy, step)
    if "mix" in policy.signals and traffic.class_share is None:
        yield "Stable names no class in its answers, so the class distribution compares nothing."
    elif "mix" in policy.signals and traffic.class_share is not None and traffic.class_share < FEW_CLASSES:
        yield (
            f"Only {traffic.class_share:.0%} of stable's predictions are of classes that are judged one by one, so the"
            " class distribution compares little."
        )
    if is_by_user:
        yield "The route is sticky: a user counts once for each kind of event, so faults are seen later than this."
    if len(steps) == 1:
        yield "The only step is 100%: there is no stable traffic to compare with, and only max_error_rate is judged."
    else:
        yield "At 100% there is no stable traffic to compare with: only max_error_rate is judged there."


def _step_warnings(policy: RolloutPolicy, step: StepForecast) -> Iterator[str]:
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
        yield f"{at} is too short to see errors, even if every request of the canary failed."
    elif step.error_rate > policy.max_error_rate:
        yield (
            f"{at} sees errors only from {step.error_rate:.2%} on: a canary that is worse than stable, "
            f"and below max_error_rate of {policy.max_error_rate:.2%}, passes it. A longer hold_s sees more."
        )
    if "slow" in policy.signals and step.slow_share is None:
        yield f"{at} is too short to see slow answers, even if every answer of the canary was slow."
