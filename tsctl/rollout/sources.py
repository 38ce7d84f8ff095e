"""Where evidence is read: Envoy itself, or a Prometheus server that scrapes it; both tell the same counts."""

from __future__ import annotations

from typing import Protocol

import requests

from tsctl.errors import AnalysisError
from tsctl.gateway.admin import Admin
from tsctl.gateway.render import REQUEST_MS, REQUESTS
from tsctl.rollout.counts import Cursor, Question, Sample, advance, parse_page, series
from tsctl.rollout.evidence import Window

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
        names = "|".join((REQUESTS, f"{REQUEST_MS}_count", f"{REQUEST_MS}_bucket"))
        query = f'{{__name__=~"{names}", model="{model}"}}'
        try:
            answer = self._session.get(f"{self._address}/api/v1/query", params={"query": query}, timeout=TIMEOUT_S)
            content = answer.json()
            if content["status"] != "success":
                raise AnalysisError(f"Prometheus at {self._address} refused a query: {content.get('error', content)}")
            return [_sample(result["metric"], result["value"][1]) for result in content["data"]["result"]]
        except (requests.RequestException, ValueError, KeyError, TypeError) as error:
            raise AnalysisError(
                f"Prometheus at {self._address} does not answer: {_brief(error)}",
                "Does it run, and scrape the gateway?",
            ) from None


def read(source: Source, question: Question, cursor: Cursor) -> tuple[list[Window], dict[str, int]]:
    """What came since the cursor, and what changed of it.

    Raises:
        AnalysisError, GatewayError: the source cannot be asked now.
    """
    return advance(series(source.samples(question.model), question), cursor, question)


def _sample(metric: dict[str, str], value: str) -> Sample:
    return Sample(metric["__name__"], metric, round(float(value)))


def _brief(error: Exception) -> str:
    return type(error).__name__ if isinstance(error, requests.RequestException) else str(error)
