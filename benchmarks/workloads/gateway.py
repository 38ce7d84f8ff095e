"""The workloads that measure the gateway."""

from __future__ import annotations

from benchmarks.harness.run import Run
from benchmarks.workloads import (
    gateway_cost,
    gateway_faults,
    gateway_filters,
    gateway_limits,
    gateway_overload,
    gateway_shadow,
    gateway_tracing,
    gateway_traffic,
)

WORKLOADS: dict[str, Run] = {
    "weights": gateway_traffic.run,
    "faults": gateway_faults.run,
    "overload": gateway_overload.run,
    "cost": gateway_cost.run,
    "filters": gateway_filters.run,
    "shadow": gateway_shadow.run,
    "tracing": gateway_tracing.run,
    "versions": gateway_limits.run_versions,
    "floods": gateway_limits.run_floods,
}
