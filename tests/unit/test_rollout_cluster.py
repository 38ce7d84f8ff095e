"""Rollouts on a cluster: judged by the workers' counters, and carried out in an HTTPRoute."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from handlers import errors
from handlers.contract import ANSWERED_ITEMS, BATCH_SECONDS, CACHE_ITEMS, WORKER_STARTS, Tolerance
from tests.support.api_server import Answer, Cluster, serving
from tests.unit.test_kubernetes_backend import DIGITS, access, set_backends, weights
from tests.unit.test_kubernetes_render import DIGEST, contents, deployment, rendered
from tsctl.archive.known import name_of
from tsctl.config.policy import RolloutPolicy, ShadowStage
from tsctl.errors import AnalysisError, SpecError
from tsctl.gateway.kubernetes.api import ApiServer
from tsctl.gateway.kubernetes.backend import HttpRoutes
from tsctl.gateway.kubernetes.names import labels
from tsctl.rollout.cluster import worker_counts
from tsctl.rollout.cluster.begin import NoPairs, require_possible
from tsctl.rollout.cluster.effects import ClusterEffects
from tsctl.rollout.cluster.evidence import PodPrometheus, WorkerEvidence
from tsctl.rollout.cluster.health import ClusterHealth
from tsctl.rollout.cluster.worker_counts import PodSample, durations_of, values_of, window_since
from tsctl.rollout.decide.events import Effect, EffectDone, Outcome, Started, Waiting
from tsctl.rollout.decide.interventions import Command
from tsctl.rollout.decide.state import State
from tsctl.rollout.run.golden import Golden
from tsctl.rollout.run.journal import Journal
from tsctl.rollout.run.runner import Runner

POLICY = RolloutPolicy(
    steps=(20, 100), hold_s=5, max_hold_s=600, min_requests=100, max_error_rate=0.2, settle_s=0, tick_s=1,
    signals=("errors", "refused", "slow"), prometheus="http://127.0.0.1:9090",
)  # fmt: skip
SAMPLE = ("seven.json", b"[7]", "application/json")


@dataclass
class Workers:
    """Counters of pods that get the requests of a second by the route's weights, as a Prometheus has them.

    Args:
        errors, slow: of a hundred items of a version, how many.
        dies: a version whose workers start anew at every second.
    """

    cluster: Cluster
    rate: int = 200
    errors: Counter[str] = field(default_factory=Counter)
    slow: Counter[str] = field(default_factory=Counter)
    dies: str = ""
    is_away: bool = False
    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def second(self) -> None:
        shares = weights(self.cluster)
        for service, weight in shares.items():
            version = service.removeprefix("digits--").replace("-", ".")
            items = self.rate * weight // sum(shares.values())
            failed, slow = items * self.errors[version] // 100, items * self.slow[version] // 100
            self.counts[ANSWERED_ITEMS, version, "ok"] += items - failed
            self.counts[ANSWERED_ITEMS, version, "model-failed"] += failed
            self.counts[f"{BATCH_SECONDS}_count", version, ""] += items
            self.counts[f"{BATCH_SECONDS}_bucket", version, "0.01"] += items - slow
            self.counts[f"{BATCH_SECONDS}_bucket", version, "1.0"] += items
            self.counts[WORKER_STARTS, version, ""] += 1 if version == self.dies and items else 0

    def samples(self, model: str) -> list[PodSample]:
        if self.is_away:
            raise AnalysisError("Prometheus does not answer")
        return [
            PodSample(name, version, f"{version}-pod", value + (name == WORKER_STARTS), label)
            for (name, version, label), value in self.counts.items()
        ]


class Commands:
    """Nobody commands anything, and deployment.yaml stays as it is."""

    policy_error = ""

    def commands(self) -> list[tuple[Command, str]]:
        return []

    def acknowledge(self) -> None:
        pass

    def sticky(self, state: State) -> str:
        return ""

    def policy(self, state: State) -> RolloutPolicy:
        return state.policy


@dataclass
class Site:
    """A cluster with both versions, its workers, and a runner whose seconds pass as it sleeps."""

    cluster: Cluster
    workers: Workers
    runner: Runner
    at: list[float]

    def run(self) -> State:
        return self.runner.run()

    @property
    def waits(self) -> str:
        entries = self.runner.journal.entries
        return "; ".join(one.event.why for one in entries if isinstance(one.event, Waiting))


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Cluster, str]]:
    cluster = Cluster()
    with serving(cluster) as address:
        yield cluster, address


@pytest.fixture
def site(server: tuple[Cluster, str], tmp_path: Path) -> Site:
    cluster, address = server
    cluster.__dict__.update(Cluster().__dict__)
    cluster.put(*contents(rendered({"traffic": "httproute"}, models={"digits": DIGITS})))
    cluster.pods = lambda name, path, body: (200, b'{"class": 7}')
    for version in ("1.0", "2.0"):
        name = f"digits--{version.replace('.', '-')}"
        cluster.edit("Deployment", name, lambda one: (one.update(status=READY), one["spec"].update(replicas=2)))
        cluster.put(pod(f"{name}-a", version), pod(f"{name}-b", version))
    spec, kubernetes = deployment({"traffic": "httproute"}, models={"digits": DIGITS})
    routes = HttpRoutes(ApiServer(access(address), "tsctl", sleep=lambda s: None), kubernetes, spec, accepted_s=2)
    workers, at = Workers(cluster), [0.0]
    for _ in range(5):
        workers.second()
    journal = Journal(tmp_path / "20261127T000000Z-2.0.jsonl")
    cursor = values_of(workers.samples("digits"), ("1.0", "2.0"), None)
    journal.append(
        Started(journal.id, "digits", "2.0", "1.0", DIGEST, POLICY, policy_digest=POLICY.digest, cursor=cursor)
    )

    def sleep(seconds: float) -> None:
        at[0] += seconds
        workers.second()

    golden = Golden((SAMPLE,), {name_of(SAMPLE): {"class": 7}}, Tolerance(), 1)
    runner = Runner(
        journal,
        ClusterEffects(lambda: routes, lambda state: EffectDone(Effect.VERIFY), lambda: golden),
        WorkerEvidence(workers, clock=lambda: at[0], settle_s=3),
        ClusterHealth(lambda: routes, clock=lambda: at[0]),
        Commands(),
        NoPairs(),
        lambda text: None,
        clock=lambda: at[0],
        sleep=sleep,
    )
    return Site(cluster, workers, runner, at)


READY = {"readyReplicas": 2, "updatedReplicas": 2, "observedGeneration": 9}


def pod(name: str, version: str) -> dict[str, Any]:
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    return {"kind": "Pod", "metadata": {"name": name, "labels": labels("digits", version)}, "status": ready}


def test_a_version_that_is_no_worse_is_promoted(site: Site) -> None:
    state = site.run()
    assert state.outcome is Outcome.PROMOTED, state.why
    assert weights(site.cluster) == {"digits--1-0": 0, "digits--2-0": 10_000}
    asked = [path for method, path, _ in site.cluster.asked if method == "POST"]
    assert asked == [
        f"/api/v1/namespaces/tsctl/pods/digits--2-0-{letter}:8080/proxy/predictions/digits" for letter in "ab"
    ]


@pytest.mark.parametrize(
    ("fault", "signal"),
    [
        (lambda workers: workers.errors.update({"2.0": 40}), "errors"),
        (lambda workers: workers.slow.update({"2.0": 60}), "slow"),
        (lambda workers: workers.__dict__.update(dies="2.0", rate=20), "errors"),
    ],
    ids=["errors", "slow", "workers that die"],
)
def test_a_version_that_is_worse_is_rolled_back(site: Site, fault: Any, signal: str) -> None:
    fault(site.workers)
    state = site.run()
    assert state.outcome is Outcome.ROLLED_BACK, state.why
    assert signal in f"{state.why}{state.judgement.signal}"
    assert weights(site.cluster)["digits--1-0"] == 10_000


def test_a_wrong_golden_answer_ends_it_before_the_first_request(site: Site) -> None:
    site.cluster.pods = lambda name, path, body: (200, b'{"class": 1}' if name.endswith("b") else b'{"class": 7}')
    state = site.run()
    assert state.is_rejected and "digits 2.0 in pod digits--2-0-b answers seven" in state.why
    assert weights(site.cluster) == {"digits--1-0": 10_000}


def test_a_pod_that_the_api_server_does_not_reach_is_waited_for(site: Site) -> None:
    answers, site.cluster.pods = site.cluster.pods, Cluster().pods
    for _ in range(6):
        assert site.runner.advance()
    assert "pod digits--2-0-a does not answer" in site.waits and "connection refused" in site.waits
    site.cluster.pods = answers
    assert site.run().outcome is Outcome.PROMOTED


def test_a_pod_that_fails_at_a_golden_sample_ends_it(site: Site) -> None:
    site.cluster.pods = lambda name, path, body: (500, b'{"type": "urn:tsctl:problem:model-failed", "status": 500}')
    state = site.run()
    assert state.is_rejected and "digits 2.0 in pod digits--2-0-a answers seven.json wrongly" in state.why


def test_pods_of_another_archive_end_it_before_the_first_request(site: Site) -> None:
    def other(one: Any) -> None:
        one["spec"]["template"]["metadata"]["annotations"]["tsctl/archive-sha256"] = "f" * 64

    site.cluster.edit("Deployment", "digits--2-0", other)
    state = site.run()
    assert state.is_rejected and "the cluster has another archive of digits 2.0: ffffffffffff" in state.why


def test_a_version_that_was_never_applied_ends_it(site: Site) -> None:
    del site.cluster.objects[site.cluster.path("Deployment", "digits--2-0")]
    state = site.run()
    assert state.is_rejected and "the cluster has no Deployment of digits 2.0" in state.why


def test_pods_that_are_not_ready_yet_are_waited_for(site: Site) -> None:
    site.cluster.edit("Deployment", "digits--2-0", lambda one: one.update(status={**READY, "readyReplicas": 1}))
    for _ in range(4):
        assert site.runner.advance()
    assert "1 of 2 pods of digits 2.0 are ready" in site.waits
    site.cluster.edit("Deployment", "digits--2-0", lambda one: one.update(status=READY))
    assert site.run().outcome is Outcome.PROMOTED


def test_while_the_api_server_or_prometheus_is_away_nothing_is_decided(site: Site) -> None:
    while not site.runner.state.is_weighed:
        site.runner.advance()
    step = site.runner.state.step
    site.workers.is_away = True
    for _ in range(30):
        assert site.runner.advance()
    assert "Prometheus does not answer" in site.waits and site.runner.state.step == step
    site.workers.is_away = False
    site.cluster.script("GET", *[Answer(503, "etcd is away")] * 40)
    for _ in range(5):
        assert site.runner.advance()
    assert "etcd is away" in site.waits
    site.cluster.scripted.clear()
    assert site.run().outcome is Outcome.PROMOTED


def test_weights_that_somebody_else_sets_stop_it_until_they_are_back(site: Site) -> None:
    while not site.runner.state.is_weighed:
        site.runner.advance()
    now = weights(site.cluster)
    site.cluster.edit("HTTPRoute", "digits", lambda one: set_backends(one, {"digits--2-0": 3000, "digits--1-0": 7000}))
    for _ in range(5):
        assert site.runner.advance()
    assert "somebody else changed the weights: 1.0 70%, 2.0 30%" in site.waits
    site.cluster.edit("HTTPRoute", "digits", lambda one: set_backends(one, now))
    assert site.run().outcome is Outcome.PROMOTED


def test_a_runner_that_was_killed_goes_on_from_the_journal(site: Site) -> None:
    while not site.runner.state.is_weighed:
        site.runner.advance()
    before = site.runner
    site.runner = Runner(
        Journal(before.journal.path), before.effects, WorkerEvidence(site.workers, lambda: site.at[0], settle_s=3),
        before.health, before.operator, before.pairs, before.note, clock=before.clock, sleep=before.sleep,
    )  # fmt: skip
    assert site.run().outcome is Outcome.PROMOTED


# ---- counters --------------------------------------------------------------------------------------------------------


def test_clients_mistakes_are_the_errors_of_handlers_below_500() -> None:
    kinds = [one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, errors.RequestError)]
    mistakes = {one.kind for one in kinds if one.status < 500 or one.status == 501}
    assert mistakes == set(worker_counts.CLIENTS_MISTAKES)
    assert {one.kind for one in kinds} >= worker_counts.NO_EVIDENCE


def test_counters_of_pods_become_counts_of_versions() -> None:
    before = {"wi|1.0|a|ok": 100, "wi|1.0|a|model-failed": 5, "ws|1.0|a|": 2, "wi|2.0|b|ok": 50}
    now = {
        "wi|1.0|a|ok": 130, "wi|1.0|a|model-failed": 6, "wi|1.0|a|does-not-fit-schema": 4, "ws|1.0|a|": 3,
        "wi|2.0|b|ok": 7,  # the pod began anew
        "wi|2.0|c|ok": 9, "ws|2.0|c|": 1, "wi|2.0|c|deadline-passed": 11, "wc|2.0|c|hit": 2,
    }  # fmt: skip
    (window,), changed = window_since(before, now, 500, "1.0", "2.0", count_4xx=False)
    assert window.weight == 500
    assert (window.stable.requests, window.stable.errors, window.stable.refused) == (36, 2, 4)
    assert (window.canary.requests, window.canary.errors, window.canary.cached) == (16, 0, 2)
    assert changed == now
    assert window_since({**before, **changed}, now, 500, "1.0", "2.0", count_4xx=False) == ([], {})
    strict = window_since(before, now, 500, "1.0", "2.0", count_4xx=True)[0][0]
    assert strict.stable.errors == 6


def test_batches_that_took_as_long_as_the_threshold_are_slow() -> None:
    samples = [
        PodSample(f"{BATCH_SECONDS}_count", "1.0", "a", 10),
        PodSample(f"{BATCH_SECONDS}_bucket", "1.0", "a", 7, "0.0215"),
        PodSample(f"{BATCH_SECONDS}_bucket", "1.0", "a", 9, "0.1"),
    ]
    assert durations_of(samples, "1.0") == {float("inf"): 10, 21.5: 7, 100.0: 9}
    values = values_of(samples, ["1.0", "2.0"], 21.5)
    ((window,), _) = window_since({}, values, 100, "1.0", "2.0", count_4xx=False)
    assert (window.stable.timed, window.stable.slow) == (10, 3)
    ((without,), _) = window_since({}, values_of(samples, ["1.0"], None), 100, "1.0", "2.0", count_4xx=False)
    assert (without.stable.timed, without.stable.slow) == (10, 0)


def test_counts_right_after_a_change_of_weights_are_of_no_weight(site: Site) -> None:
    evidence, state = WorkerEvidence(site.workers, lambda: site.at[0], settle_s=3), site.runner.state
    site.workers.second()
    windows, cursor = evidence.read(state)
    assert windows == [] and cursor  # dropped, and not counted later
    site.at[0] += 3
    assert evidence.read(state)[0] != []


class Prometheus:
    """Answers every query with these series."""

    def __init__(self, *results: dict[str, Any], status: str = "success") -> None:
        self.content = {"status": status, "data": {"result": list(results)}, "error": "bad query"}
        self.asked: list[str] = []

    def get(self, url: str, params: dict[str, str], timeout: float) -> Prometheus:
        self.asked.append(params["query"])
        return self

    def json(self) -> dict[str, Any]:
        return self.content


def series(value: str, **metric: str) -> dict[str, Any]:
    return {"metric": {"version": "1.0", "pod": "a", **metric}, "value": [0, value]}


def test_prometheus_is_asked_for_the_pods_of_the_namespace() -> None:
    hit = {"__name__": CACHE_ITEMS, "result": "hit"}
    server = Prometheus(
        series("3", __name__=ANSWERED_ITEMS, outcome="ok"), series("1", **hit, tier="worker"),
        series("2", **hit, tier="shared"),
    )  # fmt: skip
    found = PodPrometheus("http://p", "models", server).samples("digits")  # type: ignore[arg-type]
    assert found == [PodSample(ANSWERED_ITEMS, "1.0", "a", 3, "ok"), PodSample(CACHE_ITEMS, "1.0", "a", 3, "hit")]
    assert 'model="digits",namespace="models"' in server.asked[0] and ANSWERED_ITEMS in server.asked[0]


@pytest.mark.parametrize(
    ("server", "says"),
    [
        (Prometheus(status="error"), "refused a query: bad query"),
        (Prometheus(series("3", __name__=ANSWERED_ITEMS, pod="")), "without the label pod"),
        (Prometheus(*[series("3", __name__=ANSWERED_ITEMS, outcome="ok")] * 2), "scrapes pod a more than once"),
        (Prometheus({"metric": {"pod": "a"}, "value": [0, "1"]}), "does not answer: KeyError"),
    ],
)
def test_what_prometheus_answers_wrongly_is_no_evidence(server: Prometheus, says: str) -> None:
    with pytest.raises(AnalysisError, match=says):
        PodPrometheus("http://p", "models", server).samples("digits")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kubernetes", "policy", "is_text", "says"),
    [
        ({"engine": "torchserve"}, {}, False, "have no counters of our workers"),
        ({}, {}, True, "a language model is judged by this machine's gateway"),
        ({}, {"shadow": ShadowStage()}, False, "copies are not marked"),
        ({}, {"signals": ("errors", "mix")}, False, "no counter of the workers has the signal mix"),
        ({}, {"prometheus": None}, False, "names no Prometheus"),
    ],
)
def test_what_cannot_be_judged_on_a_cluster_is_refused(
    kubernetes: dict[str, Any], policy: dict[str, Any], is_text: bool, says: str
) -> None:
    spec, _ = deployment({"traffic": "httproute", **kubernetes})
    with pytest.raises(SpecError, match=says):
        require_possible(spec, POLICY.model_copy(update=policy), "digits", is_text)
    spec, _ = deployment({"traffic": "httproute"})
    assert require_possible(spec, POLICY, "digits", False) == POLICY.prometheus


def test_a_sticky_route_is_refused() -> None:
    spec, _ = deployment(models={"digits": {**DIGITS, "route": {"sticky": {"header": "x-user"}}}})
    with pytest.raises(SpecError, match="its route is sticky"):
        require_possible(spec, POLICY, "digits", False)
