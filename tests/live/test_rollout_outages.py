"""A gateway and a node go while a rollout runs, and come back: it is held, not failed, and goes on by itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import pytest

from benchmarks.harness.processes import children
from tests.support.gateways import Front
from tests.support.releases import PACE, asking, entries, held_while, is_held, releasing, served, state_of, weights
from tests.support.sites import until
from tsctl.config.weights import TOTAL
from tsctl.nodes.engines import open_nodes
from tsctl.rollout.decide.stored import to_json


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    versions = {"1.0": PACE, "2.0": PACE}
    with releasing(
        tmp_path_factory.mktemp("outages"), versions, nodes=("local", "b"), hold_s=2, max_error_rate=0.05
    ) as front:
        yield front


def start(front: Front, nodes: list[str]) -> None:
    for name in nodes:
        front.site.run("node", "start", "--node", name)


def test_a_gateway_and_a_node_that_are_killed_are_waited_for(front: Front) -> None:
    site = front.site
    with asking(front), site.start("rollout", "start", "tiny", "2.0") as process:
        until(lambda: is_held(front, "2.0"), 60, "the first step")
        site.run("rollout", "pause", "tiny")  # or it is over before all of this has happened; what fails is rolled back
        for of in ("keeper", "envoy"):
            os.kill(front.pid(of), signal.SIGKILL)
        held_while(front, process, "the gateway does not", lambda: site.run("gateway", "start"))
        gateway = front.gateway
        for gone in (["b"], ["b", "local"]):  # both versions are gone with the last node
            for node in open_nodes(gateway.project, gateway.deployment):
                if node.name in gone:
                    assert node.pid is not None
                    for pid in (node.pid, *children(node.pid)):
                        with suppress(ProcessLookupError):  # it ended with one before it
                            os.kill(pid, signal.SIGKILL)
            held_while(front, process, f"node {gone[-1]} does not answer", partial(start, front, gone))
        site.run("rollout", "resume", "tiny")
        assert process.wait(timeout=60) == 0
    assert weights(front) == {"2.0": TOTAL}
    assert state_of(front).evidence.set_aside > 20, "requests that no node could answer"
    assert served(front) == {"local": {"1.0": 1, "2.0": 1}, "b": {"1.0": 1, "2.0": 1}}
    assert [to_json(entry.event)["index"] for entry in entries(front) if entry.kind == "step"] == [0, 1, 2]
