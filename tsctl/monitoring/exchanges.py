"""How many exchanges with the shared cache a node's workers made, and how many failed.

Counts are of all workers since the node's start, as they write them into their metrics; a version whose metrics are off
has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from handlers.contract import SHARED_CACHE_EXCHANGES
from tsctl.monitoring.worker_files import counts_by_outcome

OK = "ok"


@dataclass(frozen=True)
class Exchanges:
    """The exchanges of one node.

    Args:
        failed: by what became of them, such as slow or down.
        problem: why the counts cannot be read; empty where they can.
    """

    ok: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    problem: str = ""


def read_exchanges(metrics: Path) -> Exchanges | None:
    """The exchanges of a node of this machine; None where there was none.

    Args:
        metrics: the folder of its workers' metrics.
    """
    counts, problems = counts_by_outcome(metrics, SHARED_CACHE_EXCHANGES)
    failed = {outcome: count for outcome, count in sorted(counts.items()) if outcome != OK and count}
    if not (counts.get(OK) or failed):
        return None
    return Exchanges(counts.get(OK, 0), failed, "; ".join(problems))
