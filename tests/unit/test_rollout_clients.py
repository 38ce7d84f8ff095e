"""No client with at most half of the requests fails a canary alone, and a canary that is bad for many clients fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.rollout_journals import started, stored_and_read
from tsctl.config.policy import RolloutPolicy
from tsctl.gateway.counters import CLIENT_FAILURES, CLIENT_REQUESTS, REQUESTS, Sample
from tsctl.rollout.decide.events import Entry, Tick
from tsctl.rollout.decide.evidence import Evidence, no_evidence
from tsctl.rollout.decide.fold import fold
from tsctl.rollout.decide.judge import ONE_CLIENT, Judgement, Verdict, judge
from tsctl.rollout.decide.windows import ClientCounts, OutcomeCounts, Window
from tsctl.rollout.evidence.counts import EvidenceQuery, client_shares, counter_values, windows_since
from tsctl.rollout.evidence.log import RequestLog
from tsctl.views.rollout.tables import clients_tables

POLICY = RolloutPolicy()
QUERY = EvidenceQuery("m", "1.0", "2.0", slow_ms=20, is_by_user=True)
GOOD = OutcomeCounts(200_000), OutcomeCounts(2_000)


def judged(*windows: Window) -> Judgement:
    evidence = no_evidence(POLICY, ())
    for window in windows:
        evidence = evidence.seen(window)
    return judge(POLICY, evidence, 1e9, 10**9)


def by_users(**aimed: tuple[float, int]) -> Window:
    """A window at 1 % of a route that divides users: each client has a share, and users with errors on the canary."""
    stable, canary = GOOD
    errors = sum(users for _, users in aimed.values())
    clients = {
        name: ClientCounts(share, canary=OutcomeCounts(users, users), canary_users=OutcomeCounts(0, users))
        for name, (share, users) in aimed.items()
    }
    seen = OutcomeCounts(canary.requests + errors, errors)
    return Window(100, stable, seen, is_by_user=True, stable_users=stable, canary_users=seen, clients=clients)


def by_requests(share: float, stable: int, canary: int, of_clients: int = 1) -> Window:
    """A window at 1 % of a route that divides requests, with errors of so many clients alike."""
    clients = {
        f"client {number}": ClientCounts(share, OutcomeCounts(stable, stable), OutcomeCounts(canary, canary))
        for number in range(of_clients)
    }
    all_of_stable = OutcomeCounts(GOOD[0].requests, stable * of_clients)
    return Window(100, all_of_stable, OutcomeCounts(GOOD[1].requests, canary * of_clients), clients=clients)


def test_four_made_up_users_of_four_thousand_that_aim_at_the_canary_are_nothing() -> None:
    assert judged(by_users(mallory=(4 / 4273, 4))).verdict is Verdict.PASS


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_a_client_that_aims_with_many_users_is_a_matter_for_a_person(share: float) -> None:
    found = judged(by_users(mallory=(share, 1_000)))
    assert (found.verdict, found.why) == (Verdict.UNDECIDED, ONE_CLIENT)


def test_a_canary_that_is_bad_for_two_clients_or_for_the_only_one_fails() -> None:
    assert judged(by_users(ann=(0.3, 20), bob=(0.2, 20))).verdict is Verdict.FAIL
    assert judged(by_users(ann=(1.0, 20))).verdict is Verdict.FAIL
    assert judged(by_users(ann=(0.51, 20), bob=(0.49, 0))).verdict is Verdict.FAIL


def test_on_a_route_by_requests_the_errors_that_one_client_causes_on_both_versions_stop_nothing() -> None:
    """15 % of all requests, three times what the policy allows."""
    assert judged(by_requests(0.2, 30_000, 300)).verdict is Verdict.PASS
    assert judged(by_requests(0.2, 15_000, 150, of_clients=2)).verdict is not Verdict.PASS
    assert judged(by_requests(0.8, 30_000, 300)).signal == "limit"


def test_on_a_route_by_requests_a_canary_that_is_bad_for_one_client_fails() -> None:
    """Each request was assigned at random after it was sent: nobody can aim."""
    found = judged(by_requests(0.1, 0, 20))
    assert (found.verdict, found.signal) == (Verdict.FAIL, "errors")


COUNTS = st.builds(
    lambda errors, slow, refused, cats: OutcomeCounts(errors, errors, slow, {"cat": cats} if cats else {}, refused),
    *[st.integers(0, 9)] * 4,
)


@given(st.lists(st.tuples(st.integers(1, 9999), COUNTS, COUNTS, COUNTS, COUNTS), max_size=6), st.floats(0, 0.5))
def test_no_bounded_client_makes_a_signal_larger_than_it_is_without_it(
    seen: list[tuple[int, OutcomeCounts, OutcomeCounts, OutcomeCounts, OutcomeCounts]], share: float
) -> None:
    def evidence(has_mallory: bool) -> Evidence:
        found = no_evidence(POLICY, ("cat",))
        for weight, stable, canary, aimed_stable, aimed_canary in seen:
            mallory = ClientCounts(share, aimed_stable, aimed_canary, aimed_stable, aimed_canary)
            all_ = (stable + aimed_stable, canary + aimed_canary) if has_mallory else (stable, canary)
            requests = [OutcomeCounts(100) + counts for counts in all_]
            found = found.seen(
                Window(
                    weight, requests[0], requests[1], is_by_user=True, stable_users=all_[0], canary_users=all_[1],
                    clients={"mallory": mallory} if has_mallory else {},
                )
            )  # fmt: skip
        return found

    attacked, alone = evidence(True).logs, evidence(False).logs
    assert all(attacked[signal] <= alone[signal] + 1e-9 for signal in attacked)


def sample(name: str, client: str, value: int, **labels: str) -> Sample:
    return Sample(name, {"model": "m", "by": "weight", "client": client, **labels}, value)


def test_the_gateway_counts_requests_and_failures_by_client() -> None:
    samples = [
        sample(CLIENT_REQUESTS, "ann", 75), sample(CLIENT_REQUESTS, "b|b", 25),
        Sample(CLIENT_REQUESTS, {"model": "m", "by": "path", "client": "ann"}, 900),
        Sample(CLIENT_REQUESTS, {"model": "other", "by": "weight", "client": "ann"}, 900),
        sample(CLIENT_FAILURES, "b|b", 3, version="2.0", status="500", flags="-", deadline="route"),
        sample(CLIENT_FAILURES, "b|b", 2, version="1.0", status="422", flags="-", deadline="route"),
        sample(CLIENT_FAILURES, "ann", 9, version="1.0", status="504", flags="-", deadline="client"),
        Sample(REQUESTS, {"model": "m", "by": "weight", "version": "2.0", "weight": "500", "status": "500"}, 3),
    ]  # fmt: skip
    shares = client_shares(samples, "m")
    assert shares == {"ann": 0.75, "b|b": 0.25}
    values = counter_values(samples, QUERY)
    [window], cursor = windows_since({}, values, QUERY, shares)
    assert window.clients == {"b|b": ClientCounts(0.25, OutcomeCounts(2, refused=2), OutcomeCounts(3, 3))}
    assert stored_and_read(window) == window
    assert windows_since(cursor, values, QUERY, shares) == ([], {})


def log_line(version: str, client: str, user: str, status: int = 500) -> str:
    return json.dumps({
        "time": "2026-01-01T00:00:00.000Z", "track": "canary", "model": "m", "by": "weight", "version": version,
        "weight": "500", "user": user, "status": status, "duration_ms": 5, "class": None, "client": client,
    }) + "\n"  # fmt: skip


def test_a_client_cannot_use_up_the_events_of_another_ones_users(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    log.write_text(log_line("2.0", "mallory", "u") * 5 + log_line("2.0", "ann", "u") + log_line("2.0", "ann", "v"))
    [window], _ = RequestLog(log, {}).read(QUERY, {}, {"mallory": 0.1, "ann": 0.9})
    assert (window.canary.errors, window.canary_users.errors) == (7, 3)
    mallory, ann = window.clients["mallory"], window.clients["ann"]
    assert (mallory.share, mallory.canary.errors, mallory.canary_users.errors) == (0.1, 5, 1)
    assert (ann.share, ann.canary.errors, ann.canary_users.errors) == (0.9, 2, 2)


def test_events_are_told_by_client_the_worst_first() -> None:
    window = by_users(ann=(0.3, 2), mallory=(0.01, 7))
    state = fold([Entry(0, 0.0, started("m")), Entry(1, 1.0, Tick(1.0, (window,)))])
    [table] = clients_tables(state)
    assert [row[:4] for row in table.rows] == [
        ("mallory", "1.0%", "1.0", "0"), ("mallory", "1.0%", "2.0", "7"),
        ("ann", "30.0%", "1.0", "0"), ("ann", "30.0%", "2.0", "2"),
    ]  # fmt: skip
    assert clients_tables(fold([Entry(0, 0.0, started("m"))])) == []
