"""The copies of the gateway without one part each, from files as the gateway writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.targets.envoy import pass_through
from benchmarks.workloads.gateway_cost import MODEL
from benchmarks.workloads.gateway_filters import ALL, changes
from tsctl.config.deployment import GatewaySpec
from tsctl.gateway.envoy.render import clusters, health, listeners, openai, routes
from tsctl.gateway.envoy.render.overload import Bounds
from tsctl.gateway.envoy.render.upstreams import Endpoint, Upstream
from tsctl.gateway.files import GatewayFiles
from tsctl.gateway.traffic import only


def everything() -> dict[str, Any]:
    spec, traffic = GatewaySpec(), [only(MODEL, "1.0")]
    node = Upstream(MODEL, "1.0", (Endpoint("n0", "127.0.0.1", 8100, None),), None)
    return listeners.whole(
        listeners.bootstrap(spec, GatewayFiles(Path("/srv/gateway")), Bounds(20_000, 1 << 30, 1 << 30)),
        clusters.clusters([node], {}, ()),
        routes.routes(spec, {}, traffic, []),
        health.ready(traffic),
        openai.tokens({}),
    )


def test_each_copy_of_the_gateway_lacks_one_part() -> None:
    whole = everything()
    made = changes(whole)
    assert {"filter names", "filter buffer", "logger 0, file", "cluster's header_mutation"} < made.keys()
    assert "filter router" not in made
    before = json.dumps(whole)
    texts = {}
    for name, change in made.items():
        copy = json.loads(before)
        change(copy)
        texts[name] = json.dumps(copy)
    assert json.dumps(whole) == before == texts.pop(ALL)
    assert len(set(texts.values())) == len(texts)  # no two lack the same
    assert all(len(text) < len(before) for text in texts.values())


def test_a_plain_envoy_has_one_filter_and_sends_everything_to_the_node() -> None:
    content = pass_through("http://127.0.0.1:8100")["static_resources"]
    [listener], [cluster] = content["listeners"], content["clusters"]
    [network] = listener["filter_chains"][0]["filters"]
    assert [one["name"] for one in network["typed_config"]["http_filters"]] == ["router"]
    assert '"port_value": 8100' in json.dumps(cluster)
