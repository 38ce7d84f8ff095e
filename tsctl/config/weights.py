"""Converts weights between percent, which people write, and integers that sum to TOTAL. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

from tsctl.errors import SpecError

#: Hundredths of a percent: 10,000 are all of a route's traffic.
TOTAL = 10_000

_SHARE = re.compile(r"(\d{1,3})(?:\.(\d{1,2}))?%?")


def parse_weights(arguments: Sequence[str]) -> dict[str, int]:
    """Weights from words such as `1.0=95%` or `2.0=0.5%`, in their order.

    Raises:
        SpecError: a word is none, a version comes twice, or the shares do not sum to 100 %.
    """
    weights: dict[str, int] = {}
    for argument in arguments:
        version, equals, share = argument.partition("=")
        if not equals or not version:
            raise SpecError(f"{argument}: expected VERSION=PERCENT, such as 2.0=5%")
        if version in weights:
            raise SpecError(f"version {version} has two weights")
        weights[version] = parse_share(share)
    total = sum(weights.values())
    if total != TOTAL:
        raise SpecError(
            f"the weights sum to {percent(total)}, not to 100%",
            f"Given: {', '.join(f'{version} {percent(weight)}' for version, weight in weights.items())}.",
        )
    return weights


def parse_share(text: str) -> int:
    """A percentage of at most two decimals as hundredths of a percent.

    Raises:
        SpecError: it is none, or lies above 100 %.
    """
    match = _SHARE.fullmatch(text.strip())
    share = int(match[1]) * 100 + int((match[2] or "").ljust(2, "0")) if match else TOTAL + 1
    if share > TOTAL:
        raise SpecError(f"{text!r}: expected a percentage from 0 to 100 with at most two decimals, such as 5% or 0.25%")
    return share


def percent(share: int) -> str:
    """Hundredths of a percent as people write them: 9500 is 95%, 25 is 0.25%."""
    return f"{(Decimal(share) / 100).normalize():f}%"
