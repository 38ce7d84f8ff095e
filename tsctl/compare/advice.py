"""One sentence of advice on what a comparison measured, with its reason and its limits. Pure.

The rule: among the engines that answer as the archive does, take the one with the most requests/s of an open loop whose
p99 is within the limit in every round; without a limit, at saturation. Two engines whose rounds overlap are not told
apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tsctl.compare.result import Comparison, Measured, Setting, Turn
from tsctl.compare.statistics import Spread

#: Rounds from which on a spread says something.
LEAST_ROUNDS = 3


@dataclass(frozen=True)
class Advice:
    """Which engine to take."""

    engines: tuple[str, ...]  # the best one; several where no difference was measured; none where none will do
    sentence: str
    limits: tuple[str, ...]  # sentences


def advise(comparison: Comparison) -> Advice:
    """The advice, or why there is none."""
    setting = comparison.setting
    speeds = {engine.name: _speed(engine, setting) for engine in comparison.engines if engine.is_comparable}
    limits = _limits(comparison)
    if not speeds:
        return Advice((), "No engine was measured to the end, so there is no advice.", limits)
    fit = {name: speed for name, speed in speeds.items() if speed.least > 0}
    if not fit:
        return Advice((), _none_fits(speeds, setting), limits)
    best = max(fit, key=lambda name: fit[name].median)
    equal = [name for name in fit if name != best and fit[name].overlaps(fit[best])]
    if len(speeds) == 1:
        sentence = f"Only {best} was measured, so there is nothing to choose: {_reason(best, fit[best], setting)}."
        return Advice((best,), sentence, limits)
    if equal:
        return Advice((best, *equal), _no_difference(best, equal, fit, comparison), limits)
    rest = sorted(
        (engine for engine in comparison.engines if engine.name in speeds and engine.name != best),
        key=lambda engine: (engine.name not in fit, -speeds[engine.name].median),
    )
    next_best = _next(rest[0], speeds[rest[0].name], setting)
    sentence = f"Take {best}: {_reason(best, fit[best], setting)}; next is {next_best}."
    return Advice((best,), sentence, limits)


def _speed(engine: Measured, setting: Setting) -> Spread:
    slo = setting.slo_p99_ms
    speed = engine.over_rounds(lambda turn: turn.capacity_s if slo is None else turn.within(slo))
    if speed is None:
        raise ValueError(f"{engine.name} has no turn")
    return speed


def _reason(name: str, speed: Spread, setting: Setting) -> str:
    if setting.slo_p99_ms is None:
        return f"it answers the most requests/s at saturation, {range_text(speed)}"
    return (
        f"it answers the most requests/s with a p99 of at most {setting.slo_p99_ms:g} ms in an open loop,"
        f" {range_text(speed)}"
    )


def _next(engine: Measured, speed: Spread, setting: Setting) -> str:
    if speed.least > 0 or setting.slo_p99_ms is None:
        return f"{engine.name} with {range_text(speed)}"
    kept = sum(turn.within(setting.slo_p99_ms) > 0 for turn in engine.turns)
    if kept:
        return f"{engine.name}, which kept the limit in {kept} of {len(engine.turns)} rounds only"
    return f"{engine.name}, which kept the limit at no load"


def _none_fits(speeds: dict[str, Spread], setting: Setting) -> str:
    kept = [name for name, speed in speeds.items() if speed.most > 0]
    if kept:
        return (
            f"No engine kept a p99 of {setting.slo_p99_ms:g} ms in every round; {', '.join(kept)} did in some: measure"
            " longer, allow more, or add workers."
        )
    return (
        f"No engine keeps a p99 of {setting.slo_p99_ms:g} ms even at half of its capacity: allow more, or use a"
        " smaller batch, a faster model or another machine."
    )


def _no_difference(best: str, equal: Sequence[str], fit: dict[str, Spread], comparison: Comparison) -> str:
    names = [best, *equal]
    ranges = "; ".join(f"{name} {range_text(fit[name])}" for name in names)
    what = "requests/s" if comparison.setting.slo_p99_ms is None else "requests/s within the limit"
    memory = {
        engine.name: found.median
        for engine in comparison.engines
        if engine.name in names and (found := engine.over_rounds(_memory)) is not None
    }
    least = min(memory, key=lambda name: memory[name])
    return (
        f"No difference measured between {_listed(names)} ({what}: {ranges}), so take the one that you know; {least}"
        f" needs the least memory, {memory[least] / (1 << 20):,.0f} MiB."
    )


def _memory(turn: Turn) -> float:
    return turn.memory_bytes


def _limits(comparison: Comparison) -> tuple[str, ...]:
    setting = comparison.setting
    workers = "1 worker" if setting.workers == 1 else f"{setting.workers} workers"
    cores = setting.machine.get("cores")
    where = f"{cores} cores that are shared with the client" if cores else "this machine"
    sentences = [
        f"This holds for {setting.model} {setting.version} with {workers} and {setting.source}, on {where}; another"
        " model, size of request or machine may reverse it."
    ]
    if setting.rounds < LEAST_ROUNDS:
        sentences.append(f"With fewer than {LEAST_ROUNDS} rounds the spread says little.")
    if setting.has_cache:
        sentences.append("The archive caches answers, so repeated requests cost less than new ones.")
    for engine in comparison.engines:
        if engine.difference:
            sentences.append(f"{engine.name} is left out, because it answers otherwise: {engine.difference}.")
        elif engine.why_not:
            sentences.append(f"{engine.name} is left out: {engine.why_not}.")
        elif any(turn.saturated.is_client_limited for turn in engine.turns):
            sentences.append(f"The client took most of a core with {engine.name}, whose capacity may be higher.")
    return tuple(sentences)


def range_text(speed: Spread) -> str:
    """Such as `8,200 (7,900 to 8,400)`."""
    return f"{_number(speed.median)} ({_number(speed.least)} to {_number(speed.most)})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
