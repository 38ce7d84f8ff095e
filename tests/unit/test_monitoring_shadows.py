"""Shadows in force are followed: each reading adds the pairs that came since, and rates are those of the last hour."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import generate_latest

from tests.unit.shadow_records import MODEL, SHADOW, STABLE, Asked, write
from tsctl.config.deployment import DeploymentSpec, read_deployment
from tsctl.config.policy import RolloutPolicy, ShadowStage
from tsctl.config.project import Project
from tsctl.config.weights import TOTAL
from tsctl.gateway.traffic import Shadow, Traffic
from tsctl.monitoring.shadows import EMBED_READ_S, READ_S, WINDOW_S, FollowedShadows
from tsctl.monitoring.state import MachineState
from tsctl.monitoring.worker_files import registry_of
from tsctl.records.database import Place
from tsctl.records.pairs import WAIT_S, Versions, read_pairs
from tsctl.shadow.report import Verdict, compare_pairs
from tsctl.shadow.summaries import CompareOptions, SummaryComparator

BEGIN = 1_764_150_000.0
CAT, DOG = {"label": "cat"}, {"label": "dog"}
DEPLOYMENT = """
nodes: {one: {engine: uvicorn, address: "http://127.0.0.1:18090"}}
gateway: {}
models: {}
"""


class Site:
    """A project whose gateway copies all requests of a model to a shadow."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (root / "deployment.yaml").write_text(DEPLOYMENT)
        self.project = Project(root)
        self.now = BEGIN
        self.routes = {MODEL: Traffic(MODEL, {STABLE: TOTAL}, None, Shadow(SHADOW, TOTAL))}
        monkeypatch.setattr("tsctl.monitoring.shadows.traffic_in_force", lambda gateway: self.routes)
        self.followed = FollowedShadows(self.project, lambda: self.now)

    @property
    def deployment(self) -> DeploymentSpec:
        return read_deployment(self.project.deployment)

    def asked(self, begin_s: float, count: int, differing: int) -> None:
        """Requests that came from this moment on, one each millisecond."""
        made = [
            Asked(f"id-{begin_s}-{number}", CAT, DOG if number < differing else CAT, CAT, number / 1000)
            for number in range(count)
        ]
        write(self.project.state / "nodes" / "one" / "records", made, begin_s)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


def test_pairs_are_counted_once_and_rates_are_those_of_the_last_hour(site: Site) -> None:
    site.asked(BEGIN - 100, 40, 4)
    [first] = site.followed.read(site.deployment)
    assert (first.pairs, first.disagreement, first.noise, first.paired) == (40, 0.1, 0.0, 1.0)
    site.now += READ_S
    site.asked(site.now - WAIT_S - 2, 40, 0)
    [second] = site.followed.read(site.deployment)
    assert (second.pairs, second.disagreement) == (80, 0.05)
    site.now += WINDOW_S + READ_S
    [later] = site.followed.read(site.deployment)
    assert (later.pairs, later.disagreement) == (80, None)


@pytest.mark.parametrize(
    ("differing", "again", "policy", "is_too_much"),
    [
        (20, CAT, {}, True),
        (20, CAT, {"shadow": {"max_disagreement": 0.5}}, False),
        (0, CAT, {}, False),
        (200, DOG, {}, False),
        (200, None, {}, False),
    ],
    ids=["above the limit", "below the policy's limit", "identical", "as noisy as stable", "no floor is measured"],
)
def test_the_evidence_is_that_of_the_verdict(
    site: Site, differing: int, again: dict[str, str] | None, policy: dict[str, object], is_too_much: bool
) -> None:
    made = [Asked(f"id-{n}", CAT, DOG if n % 200 < differing else CAT, again, n / 1000) for n in range(200)]
    write(site.project.state / "nodes" / "one" / "records", made, BEGIN - 100)
    deployment = site.deployment.model_copy(update={"rollout": RolloutPolicy.model_validate(policy)})
    [shadow] = site.followed.read(deployment)
    assert shadow.evidence is not None
    assert (shadow.evidence >= 1) is is_too_much
    assert shadow.noise == (None if again is None else float(again is DOG))
    here = [Place("one", str(site.project.state / "nodes" / "one" / "records"))]
    paired = read_pairs(here, Versions(MODEL, STABLE, SHADOW), BEGIN - 200, BEGIN - WAIT_S).paired
    chosen = deployment.policy(MODEL)
    limit = (chosen.shadow or ShadowStage()).max_disagreement
    report = compare_pairs(paired, SummaryComparator(), limit, chosen.alpha)
    assert (report.verdict is Verdict.TOO_MUCH) is is_too_much


def test_records_are_not_read_again_at_each_scrape(site: Site) -> None:
    site.asked(BEGIN - 100, 40, 4)
    list(site.followed.read(site.deployment))
    site.asked(BEGIN - WAIT_S + 1, 10, 0)
    site.now += READ_S / 2
    [same] = site.followed.read(site.deployment)
    assert same.pairs == 40


def test_texts_are_embedded_once_a_minute_and_only_those_of_the_last_one(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def embedded(archive: object, texts: list[str], timeout_s: float) -> list[list[float]]:
        return [[float("cat" in text), float("dog" in text)] for text in texts]

    monkeypatch.setattr("tsctl.archive.asked.embed", embedded)
    monkeypatch.setattr("tsctl.archive.asked.find_archive", lambda *names: None)
    comparator = SummaryComparator(CompareOptions("embedding"))
    monkeypatch.setattr("tsctl.monitoring.shadows.comparator_in_store", lambda *names: comparator)

    def asked(begin_s: float, words: str) -> None:
        """Two requests, of which the shadow answers the second with these words."""
        cat, other = ({"answer": {"answers": [{"tokens": [text], "finish": "stop"}]}} for text in ("a cat", words))
        made = [Asked(f"id-{begin_s}", cat, cat), Asked(f"id-{begin_s}-2", cat, other)]
        write(site.project.state / "nodes" / "one" / "records", made, begin_s)

    asked(BEGIN - WAIT_S - EMBED_READ_S - 5, "a dog")
    asked(BEGIN - WAIT_S - EMBED_READ_S + 5, "the cat")
    [first] = site.followed.read(site.deployment)
    assert (first.pairs, first.disagreement) == (2, 0.0)
    site.now += EMBED_READ_S - 1
    asked(site.now - WAIT_S - 5, "a dog")
    [same] = site.followed.read(site.deployment)
    assert same.pairs == 2
    site.now += 1
    [later] = site.followed.read(site.deployment)
    assert (later.pairs, later.disagreement) == (4, 0.25)


def test_a_shadow_that_is_gone_is_followed_no_more(site: Site) -> None:
    site.asked(BEGIN - 100, 40, 4)
    list(site.followed.read(site.deployment))
    site.routes = {MODEL: Traffic(MODEL, {STABLE: TOTAL})}
    assert list(site.followed.read(site.deployment)) == []


def test_the_state_page_has_the_rates_by_model_and_version(site: Site) -> None:
    site.asked(BEGIN - 100, 40, 4)
    machine = MachineState(site.project)
    machine._shadows = site.followed
    page = generate_latest(registry_of(machine)).decode()
    labels = f'{{model="{MODEL}",version="{SHADOW}"}}'
    assert f"tsctl_shadow_pairs_total{labels} 40.0" in page
    assert f"tsctl_shadow_disagreement_ratio{labels} 0.1" in page
    assert f"tsctl_shadow_noise_ratio{labels} 0.0" in page
    assert f"tsctl_shadow_paired_ratio{labels} 1.0" in page
    assert f"tsctl_shadow_evidence_ratio{labels} " in page
    assert 'tsctl_exporter_error{part="shadows"} 0.0' in page
