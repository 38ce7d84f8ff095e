"""Compares the answers of an engine with those that the archive's worker gives without a server."""

from __future__ import annotations

from collections.abc import Sequence

from handlers.contract import Tolerance, difference
from tsctl.archive.documents import parse_json
from tsctl.nodes.observed import Reply


def first_difference(
    names: Sequence[str], expected: Sequence[Reply], replies: Sequence[Reply], within: Tolerance
) -> str:
    """Where the answers differ first, and how; empty where they agree.

    Args:
        names: of the requests.
        within: how far two numbers may lie apart.
    """
    for name, want, have in zip(names, expected, replies, strict=True):
        if reason := _difference(want, have, within):
            return f"{name}: {reason}"
    return ""


def _difference(want: Reply, have: Reply, within: Tolerance) -> str:
    if want.status != have.status:
        return f"status {have.status} in place of {want.status} ({have.body[:200].decode('utf-8', 'replace')})"
    if want.status != 200:
        return ""  # the details of a problem hold the request's id
    try:
        wanted = parse_json(want.body)
    except ValueError:
        return "" if want.body == have.body else "other bytes"
    try:
        answer = parse_json(have.body)
    except ValueError:
        return f"no JSON: {have.body[:200].decode('utf-8', 'replace')}"
    return difference(answer, wanted, within) or ""
