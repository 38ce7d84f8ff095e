"""Where the gateway's counters are read: from Envoy, or from a Prometheus server that scrapes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import requests

from tsctl.config.policy import RolloutPolicy
from tsctl.errors import AnalysisError
from tsctl.gateway.counters import SERIES, Sample, parse_page
from tsctl.gateway.envoy.admin import Admin
from tsctl.host.http import direct_session
from tsctl.rollout.evidence.prometheus import ask
from tsctl.rollout.evidence.several import together


class Source(Protocol):
    """Has the gateway's counters."""

    def samples(self, model: str) -> list[Sample]:
        """Every series of the model, with its value now.

        Raises:
            AnalysisError, GatewayError: it does not answer now; a later call loses nothing.
        """
        ...

    def parts(self, model: str) -> dict[str, list[Sample]]:
        """As `samples`, of each Envoy by its name; a single one has an empty name."""
        ...


@dataclass(frozen=True)
class EnvoyCounters:
    """The gateway of this machine, or all of several."""

    admin: Admin

    def samples(self, model: str) -> list[Sample]:
        return together(self.parts(model))

    def parts(self, model: str) -> dict[str, list[Sample]]:
        return {name: parse_page(page) for name, page in self.admin.pages("tsctl").items()}


def open_source(policy: RolloutPolicy, admin: Admin) -> Source:
    """The source that the policy names; nothing is asked."""
    return PrometheusServer(policy.prometheus) if policy.prometheus else EnvoyCounters(admin)


@dataclass(frozen=True)
class PrometheusServer:
    """A server that scrapes the gateway's metrics."""

    address: str  # such as http://127.0.0.1:9090
    session: requests.Session = field(default_factory=direct_session)

    def samples(self, model: str) -> list[Sample]:
        query = f'{{__name__=~"{"|".join(SERIES)}", model="{model}"}}'
        return ask(self.session, self.address, query, samples_of, "Does it run, and scrape the gateway?")

    def parts(self, model: str) -> dict[str, list[Sample]]:
        return {"": self.samples(model)}


def samples_of(results: list[dict[str, Any]], address: str) -> list[Sample]:
    """The samples of an answer of Prometheus.

    Raises:
        AnalysisError: they are of more than one gateway, or of one that is scraped twice. Both would share the keys of
            a cursor, and every request would count again at each reading.
    """
    metrics = [result["metric"] for result in results]
    targets = sorted({f"{metric.get('job', '')} {metric.get('instance', '')}".strip() for metric in metrics})
    if len(targets) > 1:
        raise AnalysisError(
            f"Prometheus at {address} has the counts of more than one gateway: {', '.join(targets)}",
            "Name a server in the policy that scrapes this gateway once, or leave prometheus out.",
        )
    return [Sample(r["metric"]["__name__"], r["metric"], round(float(r["value"][1]))) for r in results]
