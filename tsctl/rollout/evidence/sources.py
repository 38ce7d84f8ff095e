"""Where evidence is read: Envoy itself, or a Prometheus server that scrapes it; both tell the same counts."""

from __future__ import annotations

from typing import Any, Protocol

import requests

from tsctl.errors import AnalysisError
from tsctl.gateway.counters import SERIES, Sample, parse_page
from tsctl.gateway.envoy.admin import Admin
from tsctl.rollout.decide.evidence import Window
from tsctl.rollout.evidence.counts import Cursor, EvidenceQuery, advance, series

#: How long Prometheus may take to answer.
TIMEOUT_S = 5.0


class Source(Protocol):
    """Tells what the versions' requests came to."""

    def samples(self, model: str) -> list[Sample]:
        """Every series of the model, with its value now.

        Raises:
            AnalysisError, GatewayError: it cannot be asked now; asking later loses nothing.
        """
        ...


class EnvoyCounters:
    """The gateway of this machine."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin

    def samples(self, model: str) -> list[Sample]:
        return parse_page(self._admin.page("tsctl"))


class PrometheusServer:
    """A server that scrapes the gateway's metrics.

    Args:
        address: such as http://127.0.0.1:9090.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._session = requests.Session()

    def samples(self, model: str) -> list[Sample]:
        query = f'{{__name__=~"{"|".join(SERIES)}", model="{model}"}}'
        try:
            answer = self._session.get(f"{self._address}/api/v1/query", params={"query": query}, timeout=TIMEOUT_S)
            content = answer.json()
            if content["status"] != "success":
                raise AnalysisError(f"Prometheus at {self._address} refused a query: {content.get('error', content)}")
            return samples_of(content["data"]["result"], self._address)
        except (requests.RequestException, ValueError, KeyError, TypeError) as error:
            raise AnalysisError(
                f"Prometheus at {self._address} does not answer: {_brief(error)}",
                "Does it run, and scrape the gateway?",
            ) from None


def read(source: Source, query: EvidenceQuery, cursor: Cursor) -> tuple[list[Window], dict[str, int]]:
    """What came since the cursor, and what changed of it.

    Raises:
        AnalysisError, GatewayError: the source cannot be asked now.
    """
    return advance(series(source.samples(query.model), query), cursor, query)


def samples_of(results: list[dict[str, Any]], address: str) -> list[Sample]:
    """The samples of an answer of Prometheus.

    Raises:
        AnalysisError: they are of more than one gateway, or of one that is scraped twice. Counts of both would take
            each other's place in a cursor, and every request would count again at each reading.
    """
    scraped = sorted({f"{one['metric'].get('job', '')} {one['metric'].get('instance', '')}".strip() for one in results})
    if len(scraped) > 1:
        raise AnalysisError(
            f"Prometheus at {address} has the counts of more than one gateway: {', '.join(scraped)}",
            "Let the policy name a server that scrapes this gateway once, or leave prometheus out.",
        )
    return [_sample(one["metric"], one["value"][1]) for one in results]


def _sample(metric: dict[str, str], value: str) -> Sample:
    return Sample(metric["__name__"], metric, round(float(value)))


def _brief(error: Exception) -> str:
    return type(error).__name__ if isinstance(error, requests.RequestException) else str(error)
