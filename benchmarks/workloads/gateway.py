"""Which workloads the gateway is measured by."""

from __future__ import annotations

from benchmarks.harness.run import Run
from benchmarks.workloads import gateway_cost, gateway_faults, gateway_shadow, gateway_traffic

WORKLOADS: dict[str, Run] = {
    "weights": lambda project, _, rounds, seconds, progress: gateway_traffic.run(project, progress),
    "faults": lambda project, _, rounds, seconds, progress: gateway_faults.run(project, rounds, progress),
    "cost": lambda project, _, rounds, seconds, progress: gateway_cost.run(project, rounds, seconds, progress),
    "shadow": lambda project, _, rounds, seconds, progress: gateway_shadow.run(project, rounds, seconds, progress),
}
