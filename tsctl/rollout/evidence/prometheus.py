"""Asks a Prometheus server for the present values of series."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import requests

from tsctl.errors import AnalysisError

#: How long Prometheus may take to answer.
TIMEOUT_S = 5.0

Value = TypeVar("Value")


def ask(
    session: requests.Session, address: str, query: str, read: Callable[[list[dict[str, Any]], str], Value], hint: str
) -> Value:
    """What `read` makes of the series that Prometheus answers with, and of its address.

    Raises:
        AnalysisError: it does not answer now, refuses the query, or answers what `read` cannot read.
    """
    try:
        content = session.get(f"{address}/api/v1/query", params={"query": query}, timeout=TIMEOUT_S).json()
        if content["status"] != "success":
            raise AnalysisError(f"Prometheus at {address} refused a query: {content.get('error', content)}")
        return read(content["data"]["result"], address)
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        what = "" if isinstance(error, requests.RequestException) else f": {error}"
        raise AnalysisError(f"Prometheus at {address} does not answer: {type(error).__name__}{what}", hint) from None
