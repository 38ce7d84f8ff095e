"""Envoy's administration of all gateways together, by what they report: those that report now, and no other."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from tsctl.errors import GatewayError
from tsctl.gateway.envoy.admin import Admin, Host, NotAnswering
from tsctl.gateway.shared.control import SharedGateways
from tsctl.gateway.shared.report import Report


class SharedAdmin(Admin):
    """Answers as one Envoy would that had the nodes and the requests of all of them.

    A version can answer where every gateway has a healthy node for it. Reports are at most a second old.
    """

    def __init__(self, shared: SharedGateways) -> None:
        self._shared = shared

    def is_live(self) -> bool:
        return any(report.is_live for report in self._shared.present().values())

    def settings(self) -> dict[str, Any]:
        return {}  # each has its own, and compares them itself

    def hosts(self) -> dict[str, list[Host]]:
        return together({name: report.hosts for name, report in self._live().items()})

    def active_clusters(self) -> set[str]:
        return set(self.hosts())

    def counters(self, pattern: str) -> Mapping[str, int]:
        """Counts of requests of clusters, which are all that is reported."""
        total = Counter[str]()
        for report in self._live().values():
            total.update({name: value for name, value in report.counters.items() if re.search(pattern, name)})
        return total

    def pages(self, pattern: str) -> dict[str, str]:
        """By the gateway's name and its origin; all that is reported, whatever the pattern."""
        return {f"{report.gateway}.{report.origin}": report.page for report in self._live().values()}

    def page(self, pattern: str) -> str:
        raise AssertionError("each gateway has its own page, which begins anew when its Envoy does. This is a bug.")

    def _live(self) -> dict[str, Report]:
        live = {name: report for name, report in self._shared.present().items() if report.is_live}
        if not live:
            reasons = ", ".join(f"{name}: {why}" for name, why in self._shared.silent().items())
            raise NotAnswering(
                f"no gateway answers: {reasons or 'Envoy does not run on any'}",
                "On each one's machine: tsctl gateway follow NAME",
            )
        return live

    def _request(self, method: str, path: str) -> bytes:
        raise GatewayError("Envoy can only be asked on the gateway's own machine", "See 'tsctl gateway status' there.")


def together(hosts: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Host]]:
    """The nodes of the clusters that every gateway has, by cluster. Pure.

    A node is healthy where one gateway says so, as long as every gateway has some healthy node of the cluster.

    Args:
        hosts: nodes by cluster, by gateway.
    """
    clusters = [set(of_gateway) for of_gateway in hosts.values()]
    return {
        name: _one_cluster({g: of[name] for g, of in hosts.items()}) for name in sorted(set.intersection(*clusters))
    }


def _one_cluster(hosts: Mapping[str, Any]) -> list[Host]:
    without = [gateway for gateway, of in hosts.items() if not any(host.is_healthy for host in of)]
    by_address: dict[str, list[Host]] = {}
    for of in hosts.values():
        for host in of:
            by_address.setdefault(host.address, []).append(host)
    merged = []
    for address, seen in by_address.items():
        reasons = dict.fromkeys(host.why_not for host in seen if host.why_not)
        if without:
            reasons[f"gateway {', '.join(without)} has no healthy node"] = None
        is_healthy = not without and any(host.is_healthy for host in seen)
        merged.append(Host(address, is_healthy, "" if is_healthy else "; ".join(reasons), sum(h.active for h in seen)))
    return merged
