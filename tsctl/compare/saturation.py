"""Finds how many connections saturate a server. Pure; the caller measures."""

from __future__ import annotations

from collections.abc import Sequence

#: Connections that are tried, in this order.
LADDER = (1, 4, 16, 32, 64, 128, 256)
#: Throughput that a further step must gain, and how many steps without it end the search: one may be bad luck.
GAIN = 1.05
PATIENCE = 2
#: Share of the most requests/s that the chosen number of connections has at least.
NEARLY = 0.95

#: Connections, and requests/s with them.
Step = tuple[int, float]


def next_connections(steps: Sequence[Step], ladder: Sequence[int] = LADDER) -> int | None:
    """The connections to try next; None where more would gain nothing, or the ladder has ended."""
    if len(steps) >= len(ladder):
        return None
    gains = [rate >= GAIN * max((r for _, r in steps[:at]), default=0.0) for at, (_, rate) in enumerate(steps)]
    if len(steps) > PATIENCE and not any(gains[-PATIENCE:]):
        return None
    return ladder[len(steps)]


def saturating(steps: Sequence[Step]) -> int:
    """The fewest connections with nearly the most requests/s; more of them only wait longer.

    Raises:
        ValueError: nothing was measured.
    """
    most = max(rate for _, rate in steps)
    return min(connections for connections, rate in steps if rate >= NEARLY * most)
