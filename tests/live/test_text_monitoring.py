"""The dashboard of a language model: every query has data where a worker generates text."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import requests

from tests.handlers.test_text_server import serving
from tests.support.paced import write_paced
from tests.support.prometheus import Prometheus
from tests.support.sites import until
from tests.support.streams import COMPLETION, ask, completion
from tsctl.monitoring.dashboards import TEXTS_UID, dashboards
from tsctl.monitoring.grafana import MODEL_VARIABLE


def test_every_query_of_the_dashboard_of_language_models_has_data(tmp_path: Path) -> None:
    [board] = [board for board in dashboards() if board["uid"] == TEXTS_UID]
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert len(queries) > 8
    with serving(write_paced(tmp_path / "toy")) as server:
        prometheus = Prometheus(tmp_path / "prometheus", server.url)
        prometheus.start()

        def has_data(query: str) -> bool:
            with closing(ask(server.port, COMPLETION, completion("ab", 5))) as stream:
                assert stream.body().endswith(b"data: [DONE]\n\n")
            parameters = {"query": query.replace(MODEL_VARIABLE, "toy").replace("$__rate_interval", "10s")}
            found = requests.get(f"{prometheus.address}/api/v1/query", params=parameters, timeout=10).json()
            assert found["status"] == "success", found
            values = [series["value"][1] for series in found["data"]["result"]]
            return bool(values) and "NaN" not in values

        try:
            for query in queries:
                until(lambda: has_data(query), 60, f"data of {query}")  # noqa: B023
        finally:
            prometheus.stop()
