"""A version leaves under load: no request fails, and nothing of it stays behind."""

from __future__ import annotations

import threading

import pytest

from benchmarks.harness.client import under_load
from tests.support.gateways import Front, front_of, with_gateway
from tests.support.sites import HALF, Site, write_tiny
from tsctl.errors import GatewayError
from tsctl.gateway import retire
from tsctl.gateway.files import read_document


@pytest.fixture
def front(shared: Site) -> Front:
    """Versions 1.0 (stable) and 2.0 of `tiny`; the answers of 2.0 take a tenth of a second."""
    write_tiny(shared, "tiny", {"1.0": {"factor": 2.0}, "2.0": {"factor": 3.0, "inference_s": 0.1}})
    shared.deploy({"tiny": {"default": "1.0", "versions": {"1.0": {"workers": 1}, "2.0": {"workers": 1}}}})
    base, metrics = with_gateway(shared, {})
    shared.run("up")
    return front_of(shared, base, metrics)


def test_a_version_retires_under_load_and_no_request_fails(front: Front) -> None:
    front.site.run("weights", "set", "tiny", "1.0=50%", "2.0=50%")
    front.site.run("models", "set-default", "tiny", "2.0")
    front.site.run("shadow", "set", "tiny", "2.0", "--percent", "10")
    with under_load(front.address("/predictions/tiny"), HALF, 8) as load:
        retired = front.site.run("models", "retire", "tiny", "2.0")
        after = load.counts[200, "2.0"]
    assert "deployment.yaml still names tiny 2.0" in retired.out
    assert load.counts[200, "1.0"] > 0
    assert 0 < load.counts[200, "2.0"] == after
    assert {status for status, _ in load.counts} == {200}
    assert [entry["version"] for entry in front.site.run("models", "list", "--json").json()] == ["1.0"]
    [shown] = front.site.run("weights", "show", "--json").json()
    assert (shown["weights"], shown["shadow"], shown["canary"]) == ({"1.0": 10_000}, None, None)
    clusters = read_document(front.gateway.files.clusters)
    assert clusters is not None
    assert [cluster["name"] for cluster in clusters["resources"]] == ["tiny~1.0"]
    assert front.ask("/predictions/tiny/2.0").status_code == 404
    assert "no node serves it" in front.site.run("models", "retire", "tiny", "2.0").err


def test_what_is_stable_or_in_use_stays(front: Front) -> None:
    refused = front.site.run("models", "retire", "tiny", "1.0", status=5)
    assert "tiny 1.0 is stable, with 100% of the requests" in refused.err
    kept = front.site.run("models", "unregister", "tiny", "1.0", status=5)
    assert "tiny 1.0 has 100% of the requests on its route" in kept.err
    assert "tsctl models retire tiny 1.0" in kept.err
    node = front.gateway.nodes()[0]
    body = {"Content-Type": "application/json"}
    stop = threading.Event()

    def ask_the_node() -> None:  # past the gateway: only the node's queue tells
        while not stop.is_set():
            node.predict("tiny", "2.0", HALF, body["Content-Type"])

    threads = [threading.Thread(target=ask_the_node) for _ in range(24)]
    for thread in threads:
        thread.start()
    try:
        with pytest.raises(GatewayError, match=r"still in use after 3 s: 0 in flight .* \d+ in the nodes' queues"):
            retire.retire(front.gateway, "tiny", "2.0", 3.0, lambda seen: None)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert front.site.run("models", "describe", "tiny", "2.0").json()
    front.site.run("weights", "set", "tiny", "1.0=99%", "2.0=1%")
    assert "tiny 2.0 has 1%" in front.site.run("models", "unregister", "tiny", "2.0", "--all-nodes", status=5).err
    forced = front.site.run("models", "unregister", "tiny", "2.0", "--all-nodes", "--force")
    table = [line.split() for line in forced.out.splitlines()]
    assert table == [["NODE", "OUTCOME", "DETAIL"], ["local", "unregistered"]]
    front.site.run("weights", "set", "tiny", "1.0=100%")
    assert front.ask("/predictions/tiny").status_code == 200
