"""Comparisons as they could have been measured."""

from __future__ import annotations

from tsctl.compare.load.figures import LoadFigures
from tsctl.compare.result import LOAD_SHARES, Measured, Setting, Turn

SETTING = Setting(
    model="digits",
    version="1.0",
    digest="03e1a936751a",
    source="8 samples of the archive",
    requests=8,
    request_bytes=400,
    workers=1,
    batch=32,
    has_cache=False,
    rounds=3,
    seconds=5.0,
    slo_p99_ms=50.0,
    machine={"cores": 2},
)


def load(answered_s: float, p99_ms: float, offered_s: float | None = None) -> LoadFigures:
    """A load whose p99 is five times its median."""
    return LoadFigures(
        connections=64, offered_s=offered_s, answered_s=answered_s, p50_ms=p99_ms / 5, p90_ms=p99_ms / 2,
        p99_ms=p99_ms, most_ms=p99_ms * 2, requests=1000, failed=0, statuses={200: 1000}, client_share=0.2,
        late_p99_ms=0.1,
    )  # fmt: skip


def turn(rate: float, p99: tuple[float, float, float] = (5.0, 20.0, 40.0), memory: int = 300 << 20) -> Turn:
    """A turn with this capacity.

    Args:
        p99: at half of the capacity, at 80 % of it, and at saturation.
    """
    open_loops = {
        share: load(share * rate, limit, share * rate) for share, limit in zip(LOAD_SHARES, p99[:2], strict=True)
    }
    return Turn(
        ready_s=2.0, first_ms=12.0, lone=load(500.0, 1.5), saturated=load(rate, p99[2]), open_loops=open_loops,
        cpu_s_per_1000=0.12, memory_bytes=memory, is_proportional=True,
    )  # fmt: skip


def engine(name: str, *turns: Turn) -> Measured:
    """An engine that was measured in as many rounds."""
    return Measured(name, turns)
