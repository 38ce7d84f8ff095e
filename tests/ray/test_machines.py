"""Ray nodes on three machines and a fourth one, behind the gateway: one is cut off, one killed, one added."""

from __future__ import annotations

from tests.ray.bench import outages

CUT_S = 60.0
#: Of all requests; what was on its way when a machine went may be lost, of each client one.
MOST_FAILED, CLIENTS = 1 / 1000, 4


def test_machines_that_come_and_go_lose_no_request_that_they_did_not_have() -> None:
    result = outages(CUT_S, CLIENTS)
    assert result["requests"] >= CLIENTS / MOST_FAILED, (
        "so many that one lost request of each client is within the share"
    )
    assert result["failed"] <= result["requests"] * MOST_FAILED, result
    for failure in result["failures"]:
        assert failure["status"] in (503, 504), failure
        assert failure["type"] == "application/problem+json", failure
    # no proxy was left that a connection could be made to: a request that reached none is never told to a client
    assert not [line for line in result["access_log"] if "UF" in (line["flags"] or "")], result["access_log"]
