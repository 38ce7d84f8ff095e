"""The parts of the benchmark of text; each can be run alone."""

from __future__ import annotations

from benchmarks.harness.run import Run
from benchmarks.text.parts import backends, changes, naive, noise, open_loop, release, servers

PARTS: dict[str, Run] = {
    "naive": naive.run,
    "backends": backends.run,
    "vllm": backends.run_vllm,
    "servers": servers.run_users,
    "cost": servers.run_cost,
    "open-loop": open_loop.run,
    "overload": open_loop.run_overload,
    "changes": changes.run,
    "release": release.run,
    "noise": noise.run,
}
