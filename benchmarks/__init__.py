"""Measurements of handlers, gateway and rollouts, run from a checkout with `python -m benchmarks`; never shipped.

Tests may import this package; it imports nothing of the tests, and nothing of tsctl imports it.
"""

from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
#: Archives that only benchmarks serve, a folder each.
ARCHIVES = Path(__file__).parent / "archives"
#: What is compared with: handlers, a server and loops as people write them without tsctl.
BASELINES = Path(__file__).parent / "baselines"
