"""A gateway's part of the budgets of clients: Envoy counts requests by itself, so each of n has an nth. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tsctl.config.deployment import Budget
from tsctl.gateway.keys import Record


def part_of(budget: Budget, sharing: int) -> Budget:
    """One of `sharing` equal parts, rounded up, so that none is 0."""
    return Budget(
        requests_per_s=_part(budget.requests_per_s, sharing),
        burst=_part(budget.burst, sharing),
        tokens_per_minute=_part_or_none(budget.tokens_per_minute, sharing),
    )


def parts_of(records: Sequence[Record], sharing: int) -> list[Record]:
    """The records with one of `sharing` parts of their budgets."""
    return [
        replace(
            record,
            requests_per_s=_part_or_none(record.requests_per_s, sharing),
            burst=_part_or_none(record.burst, sharing),
            tokens_per_minute=_part_or_none(record.tokens_per_minute, sharing),
        )
        for record in records
    ]


def _part_or_none(value: int | None, sharing: int) -> int | None:
    return None if value is None else _part(value, sharing)


def _part(value: int, sharing: int) -> int:
    return -(-value // sharing)
