"""Rollouts that read counts from a Prometheus server, which tells what Envoy tells, and what the access log says."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support.gateways import Front
from tests.support.prometheus import Prometheus
from tests.support.releases import (
    FAILS_ON_LARGE,
    LARGE,
    PACE,
    asking,
    change_policy,
    held_while,
    is_held,
    releasing,
    state_of,
    weights,
)
from tests.support.sites import until
from tsctl.config.weights import TOTAL
from tsctl.gateway.change import set_weights
from tsctl.gateway.counters import BUCKETS_MS, shortest_over
from tsctl.gateway.headers import DEADLINE_HEADER
from tsctl.rollout.decide.events import Outcome
from tsctl.rollout.evidence.answers import Answer
from tsctl.rollout.evidence.counts import EvidenceQuery, client_shares, counter_values
from tsctl.rollout.evidence.source import EnvoyCounters, PrometheusServer

PROMOTED, ROLLED_BACK = 0, 10


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    versions = {"1.0": PACE, "2.0": PACE, "3.0": FAILS_ON_LARGE}
    with releasing(tmp_path_factory.mktemp("counts"), versions) as front:
        yield front


@pytest.fixture(scope="module")
def prometheus(front: Front, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    server = Prometheus(tmp_path_factory.mktemp("server") / "own", front.metrics)
    server.start()
    change_policy(front, prometheus=server.address)
    try:
        yield server
    finally:
        server.stop()


def test_a_prometheus_that_does_not_know_the_gateway_is_refused(
    front: Front, prometheus: Prometheus, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """All that the gateway ever counted would come as new evidence once it does."""
    with asking(front):
        until(lambda: PrometheusServer(prometheus.address).samples("tiny"), 20, "Prometheus knows the requests")
    blind = Prometheus(tmp_path_factory.mktemp("blind") / "own", "http://127.0.0.1:9")
    blind.start()
    try:
        change_policy(front, prometheus=blind.address)
        refused = front.site.run("rollout", "start", "tiny", "2.0", status=6)
    finally:
        blind.stop()
    change_policy(front, prometheus=prometheus.address)
    assert "has no request of tiny, and the gateway counted" in refused.err
    assert f"Does it scrape {front.metrics}/metrics?" in refused.err


def test_a_prometheus_that_is_killed_is_waited_for(front: Front, prometheus: Prometheus) -> None:
    site = front.site
    with asking(front), site.start("rollout", "start", "tiny", "2.0") as process:
        until(lambda: is_held(front, "2.0"), 60, "the first step")
        prometheus.stop(signal.SIGKILL)
        held_while(front, process, f"Prometheus at {prometheus.address} does not answer", prometheus.start)
        assert process.wait(timeout=60) == PROMOTED
    assert weights(front) == {"2.0": TOTAL}


def test_by_prometheus_a_bad_canary_is_rolled_back(front: Front, prometheus: Prometheus) -> None:
    with asking(front), asking(front, LARGE):
        front.site.run("rollout", "start", "tiny", "3.0", status=ROLLED_BACK)
    state = state_of(front)
    assert (state.outcome, state.signal) in {(Outcome.ROLLED_BACK, signal) for signal in ("errors", "limit")}
    assert weights(front) == {"2.0": TOTAL}


def test_envoy_prometheus_and_the_log_tell_the_same_counts(front: Front, prometheus: Prometheus) -> None:
    """Also where a duration is equal to an edge of the histogram."""
    sources = (EnvoyCounters(front.gateway.admin), PrometheusServer(prometheus.address))
    questions = [EvidenceQuery("tiny", "2.0", "3.0", slow_ms=shortest_over(edge)) for edge in BUCKETS_MS]

    def counts() -> list[dict[str, int]]:
        told = [source.samples("tiny") for source in sources]
        return [{k: v for query in questions for k, v in counter_values(samples, query).items()} for samples in told]

    def same() -> dict[str, int]:
        first, _ = told = counts()
        time.sleep(2.5)  # a histogram is told after a second, a line of the log after a quarter, a scrape after one
        return dict(first) if [*told, *counts()] == [first] * 4 else {}

    def settled() -> dict[str, int]:
        return dict(until(same, 30, "both sources tell the same, and go on to"))

    set_weights(front.gateway, "tiny", {"2.0": 7000, "3.0": 3000})
    before, lines = settled(), len(front.log())
    with asking(front), asking(front, LARGE):
        until(lambda: len(front.log()) > lines + 600, 60, "requests")
        front.ask("/predictions/tiny", **{"x-track": "canary"})  # what is not by weight is no evidence
        front.ask("/predictions/tiny/3.0")
        for _ in range(20):  # a mistake of the client, a deadline of its own, and one that is the gateway's to refuse
            assert front.ask("/predictions/tiny", b'{"x": "one"}').status_code == 422
            assert front.ask("/predictions/tiny", **{DEADLINE_HEADER: "1"}).status_code == 504
            assert front.ask("/predictions/tiny", bytes(20 << 20)).status_code == 413
    after = settled()
    came = [line for line in front.log()[lines:] if line["model"] == "tiny" and line["by"] == "weight"]
    logged: Counter[str] = Counter()
    for line in came:
        place = f"{line['version']}|{line['weight']}"
        answer = f"{line['status']};;{line['deadline']}"
        logged[f"r|{place}|{answer}|"] += 1
        logged[f"t|{place}"] += 1
        if line["status"] >= 400:
            logged[f"e|{line['version']}|{answer}|{line['client']}"] += 1
        for edge in BUCKETS_MS:
            if line["answer_ms"] >= shortest_over(edge):
                logged[f"s|{place}|{shortest_over(edge):g}"] += 1
    new = {key: value - before.get(key, 0) for key, value in after.items()}
    assert {key: value for key, value in new.items() if value} == dict(logged)
    assert client_shares(sources[0].samples("tiny"), "tiny") == {came[0]["client"]: 1.0}
    assert {line["weight"] for line in came} == {"7000", "3000"}
    refused = [line for line in front.log()[lines:] if line["status"] == 413]
    assert len(refused) == 20
    assert {(line["version"], line["weight"], line["by"]) for line in refused} == {(None, None, None)}, "by the gateway"
    assert {line["deadline"] for line in came if line["status"] == 504} == {"client"}
    assert {line["deadline"] for line in came if line["status"] in (200, 500)} == {"route"}
    assert any(Answer(str(line["status"])).is_error(False) for line in came)
    assert {line["answer_ms"] for line in came} & set(BUCKETS_MS), "a time that is equal to an edge"
