"""Formats the numbers of a rollout for people: rates, e-values, durations, times. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from math import floor, inf, log

from tsctl.rollout.decide.judge import MOST_REQUESTS
from tsctl.rollout.decide.readings import Rate
from tsctl.rollout.decide.windows import Thresholds

#: Natural logarithm of ten: e-values are stored as natural logarithms and shown as powers of ten.
LN_10 = log(10)
#: Within these powers of ten an e-value is written out.
PLAIN_POWERS = (-3, 5)

_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def share_text(share: float | None) -> str:
    """`4.52%`; `-` where it is unknown."""
    return "-" if share is None else f"{share:.2%}"


def setting_text(value: object) -> str:
    """The value of a policy's setting."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {setting_text(each)}" for name, each in value.items())
    if isinstance(value, list):
        return " ".join(map(setting_text, value))
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def interval_text(rate: Rate) -> str:
    """`3.68% to 5.49%`; `-` without requests."""
    return "-" if rate.estimate is None else f"{rate.low:.2%} to {rate.high:.2%}"


def e_text(log_e: float) -> str:
    """An e-value from its natural logarithm: `0.031`, `131`, `4.2e+17`; however large."""
    if log_e == -inf:
        return "0"
    power = floor(log_e / LN_10)
    mantissa = f"{10 ** (log_e / LN_10 - power):.1f}"
    if PLAIN_POWERS[0] <= power < PLAIN_POWERS[1]:
        value: float = 10 ** (log_e / LN_10)
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return f"1.0e{power + 1:+03d}" if mantissa == "10.0" else f"{mantissa}e{power:+03d}"


def duration(seconds: float) -> str:
    """The two largest units that are not zero: `41 s`, `5 min 10 s`, `2 h`, `3 d 4 h`."""
    left = max(0, round(seconds))
    parts: list[tuple[int, str]] = []
    for unit, size in _UNITS:
        count, left = divmod(left, size)
        if count or parts:
            parts.append((count, unit))
    return " ".join(f"{count} {unit}" for count, unit in parts[:2] if count) or "0 s"


def when(at: float, zone: tzinfo | None = None) -> str:
    """`2026-11-25 09:30:00 +01:00`, in local time where no zone is given.

    Args:
        at: seconds since 1970.
    """
    local = datetime.fromtimestamp(at, UTC).astimezone(zone)
    return f"{local:%Y-%m-%d %H:%M:%S} {local.isoformat()[-6:]}"


def needed_text(needed: int) -> str:
    """Requests of the canary that a step still needs, in words; empty where it needs none."""
    if needed >= MOST_REQUESTS:
        return "more requests of the canary than can be waited for, at its present error rate"
    return f"about {needed:,} more requests of the canary" if needed else ""


def signal_name(signal: str) -> str:
    """The name of a signal for people; policies and journals keep the short ones."""
    return _NAMES.get(signal, signal)


_NAMES = {
    "mix": "class distribution",
    "limit": "error rate cap",
    "tokens": "slow tokens",
    "finish": "finish distribution",
    "length": "length distribution",
}


def threshold_text(thresholds: Thresholds, is_text: bool) -> str:
    """`answers of 26 ms or more are slow`; empty while no threshold is known."""
    parts = []
    if thresholds.slow_ms is not None:
        what = "a first token after" if is_text else "answers of"
        parts.append(f"{what} {thresholds.slow_ms:.4g} ms or more {'is' if is_text else 'are'} slow")
    if thresholds.token_ms is not None:
        parts.append(f"tokens of {thresholds.token_ms:.4g} ms or more each are slow")
    return ", and ".join(parts)
