"""Versions and workers through their bad days: refused loads, kills under load, dead workers, expired tokens."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.support.sites import HALF, TINY, Site, kill_for_good, until, write_tiny


def test_a_worker_killed_under_load_comes_back_and_no_request_stays_unanswered(shared: Site) -> None:
    write_tiny(shared, "tiny", {"1.0": {"inference_s": 0.005}})
    shared.deploy({"tiny": {"default": "1.0", "versions": {"1.0": {"workers": 2}}}})
    shared.run("up")
    statuses: list[int] = []
    wrong: list[str] = []
    ended = threading.Event()

    def load() -> None:
        while not ended.is_set():
            answer = shared.ask("tiny", HALF)
            statuses.append(answer.status_code)
            if answer.status_code == 200 and answer.json() != {"y": 1.0}:
                wrong.append(answer.text)

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    until(lambda: len(statuses) > 200, 30, "the load")
    victim, survivor = shared.workers("tiny", "1.0")
    os.kill(victim, signal.SIGKILL)
    until(
        lambda: len(now := shared.workers("tiny", "1.0")) == 2 and victim not in now and survivor in now,
        30,
        "a new worker in place of the killed one",
    )
    seen = len(statuses)
    until(lambda: len(statuses) > seen + 200, 30, "answers after the worker came back")
    ended.set()
    for thread in threads:
        thread.join(timeout=40)
        assert not thread.is_alive(), "a request was never answered"
    assert not wrong
    failed = [status for status in statuses if status != 200]
    # what the killed worker had in hand: at most one batch of four
    assert len(failed) <= 4, f"{len(failed)} of {len(statuses)} requests failed: {sorted(set(failed))}"


def test_an_answer_that_the_node_would_not_read_costs_no_worker_and_no_neighbour(site: Site) -> None:
    limit = 1 << 20
    site.configure(max_response_size=str(limit))
    write_tiny(site, "tiny", {"1.0": {"long_from": 100}}, batch={"size": 4, "max_delay_ms": 1000})
    site.deploy(TINY)
    site.run("up")
    [worker] = site.workers("tiny", "1.0")

    def ask(*doubles: int) -> list[tuple[int, int]]:
        """Status and length of the answers to requests of one batch; an answer has two bytes more than its number."""
        bodies = [json.dumps({"x": double / 2}).encode() for double in doubles]
        with ThreadPoolExecutor(len(bodies)) as pool:
            answers = list(pool.map(lambda body: site.ask("tiny", body), bodies))
        return [(answer.status_code, len(answer.content) if answer.ok else 0) for answer in answers]

    assert ask(limit - 2, 4, limit, 6) == [(200, limit), (200, 9), (500, 0), (200, 9)]
    assert ask(*[limit * 3 // 5] * 3) == [(200, limit * 3 // 5 + 2)] * 3
    assert sorted(ask(*[limit - 2] * 4)) == [(200, limit)] * 2 + [(500, 0)] * 2
    assert site.workers("tiny", "1.0") == [worker]


def test_a_file_without_a_type_and_a_compressed_body_are_read(shared: Site) -> None:
    write_tiny(shared, "tiny", {"1.0": {}})
    shared.deploy(TINY)
    shared.run("up")
    path = f"{shared.inference}/predictions/tiny"
    for files in ({"file": HALF}, {"file": ("half.json", HALF)}, {"file": ("half", HALF, "application/octet-stream")}):
        answer = requests.post(path, files=files, headers=shared.headers(), timeout=10)
        assert (answer.status_code, answer.json()) == (200, {"y": 1.0})
    assert shared.ask("tiny", gzip.compress(HALF), **{"Content-Encoding": "gzip"}).json() == {"y": 1.0}
    refused = shared.ask("tiny", HALF, **{"Content-Encoding": "br"})
    assert (refused.status_code, "Content-Encoding br" in refused.json()["detail"]) == (415, True)


def test_a_wrong_golden_answer_refuses_to_load_and_the_reason_is_told(shared: Site) -> None:
    write_tiny(shared, "tiny", {"1.0": {}})
    write_tiny(shared, "wrong", {"1.0": {}}, golden=7.0)
    shared.deploy({**TINY, "wrong": {"default": "1.0", "versions": {"1.0": None}}})
    failed = shared.run("up", status=4)
    reason = "half.json, alone, is not the golden answer: y: expected 7.0, got 1.0"
    assert reason in failed.err
    assert "tiny 1.0" in failed.out, "the good model serves nevertheless"
    status = shared.run("status", "--json", status=4).json()
    rows = {row["model"]: row for row in status["versions"]}
    assert (rows["tiny"]["state"], rows["wrong"]["state"]) == ("ready", "refused")
    assert reason in rows["wrong"]["reason"]
    assert [row["model"] for row in shared.run("models", "list", "--json").json()] == ["tiny"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"import_in_load": "no_such_module"}, "ModuleNotFoundError: No module named 'no_such_module'"),
        ({"exit_in_load": 3}, "crash while they load|TorchServe gave up 1 of its 1 workers"),  # whichever is seen first
    ],
)
def test_a_failed_register_is_told_and_leaves_nothing_registered(
    shared: Site, settings: dict[str, object], reason: str
) -> None:
    write_tiny(shared, "tiny", {"1.0": settings})
    shared.run("archive", "build")
    failed = shared.run("models", "register", "tiny:1.0", status=4)
    assert re.search(reason, failed.err)
    assert shared.run("models", "list", "--json").json() == []


def test_dead_workers_are_revived_by_scaling(shared: Site) -> None:
    trap = shared.root / "trap"
    write_tiny(shared, "tiny", {"1.0": {"fail_while": str(trap)}})
    shared.deploy(TINY)
    shared.run("up")
    [worker] = shared.workers("tiny", "1.0")
    trap.touch()
    kill_for_good(shared, worker)
    assert shared.workers("tiny", "1.0") == []
    assert "the file of the test is there" in shared.run("status", status=4).out
    trap.unlink()
    shared.run("up")
    assert len(shared.workers("tiny", "1.0")) == 1
    assert shared.ask("tiny", HALF).json() == {"y": 1.0}


def test_a_worker_that_torchserve_gave_up_is_told_as_failed(shared: Site) -> None:
    trap = shared.root / "trap"
    write_tiny(shared, "tiny", {"1.0": {"exit_while": str(trap)}})
    shared.deploy({"tiny": {"default": "1.0", "versions": {"1.0": {"workers": 2}}}})
    shared.run("up")
    worker, _ = shared.workers("tiny", "1.0")
    trap.touch()
    kill_for_good(shared, worker)

    def row() -> dict[str, Any]:
        [only] = shared.run("status", "--json", status=4).json()["versions"]
        return dict(only)

    until(lambda: row()["state"] == "failed", 10, "the end of the pause before another try")
    assert row()["ready_workers"] == 1
    assert "TorchServe gave up 1 of its 2 workers after" in row()["reason"]
    assert "TorchServe gave up 1 of its 2" in shared.run("status", status=4).out
    waited = shared.run("models", "scale", "tiny", "1.0", "2", status=4)  # READY ones stand behind it
    assert "will not be ready: TorchServe gave up 1 of its 2 workers" in waited.err
    assert "'tsctl models scale tiny 1.0 0', and then to 2," in waited.err
    trap.unlink()
    shared.run("models", "scale", "tiny", "1.0", "0")
    shared.run("models", "scale", "tiny", "1.0", "2")
    assert len(shared.workers("tiny", "1.0")) == 2
    shared.run("status")


def test_expired_tokens_are_renewed(site: Site) -> None:
    write_tiny(site, "tiny", {"1.0": {}})
    site.configure(token_expiration_min="0.05")
    site.deploy(TINY)
    site.run("up")
    first = site.headers()

    def is_stale() -> bool:
        answer = requests.post(f"{site.inference}/predictions/tiny", data=HALF, headers=first, timeout=10)
        return bool(answer.json().get("type") == "InvalidKeyException")

    until(is_stale, 20, "the end of the token's three seconds")
    assert site.run("models", "list", "--json").json()[0]["ready"] == 1
    assert site.headers() != first
    assert site.ask("tiny", HALF).json() == {"y": 1.0}


def test_a_model_api_that_is_off_is_named(site: Site) -> None:
    write_tiny(site, "tiny", {"1.0": {}})
    site.configure(enable_model_api="false")
    site.run("archive", "build")
    site.run("node", "start")
    failed = site.run("models", "register", "tiny:1.0", status=4)
    assert "405" in failed.err
    assert "enable_model_api=true" in failed.err


def test_changed_bytes_under_one_version_are_replaced(shared: Site) -> None:
    write_tiny(shared, "tiny", {"1.0": {}, "2.0": {}})
    shared.deploy({"tiny": {"default": "1.0", "versions": {"1.0": None, "2.0": None}}})
    shared.run("up")
    write_tiny(shared, "tiny", {"1.0": {"factor": 5.0}, "2.0": {}})
    shared.run("up")
    assert shared.ask("tiny", HALF).json() == {"y": 2.5}
    rows = shared.run("models", "list", "--json").json()
    assert [(row["version"], row["default"]) for row in rows] == [("1.0", True), ("2.0", False)]


def test_a_version_that_is_not_ready_does_not_become_the_default(shared: Site) -> None:
    write_tiny(shared, "tiny", {"1.0": {}, "2.0": {}})
    shared.run("archive", "build")
    shared.run("models", "register", "tiny:1.0")
    shared.run("models", "register", "tiny:2.0")
    shared.run("models", "scale", "tiny", "2.0", "0")
    assert "cannot become the default" in shared.run("models", "set-default", "tiny", "2.0", status=4).err
    assert "Make another version the default" in shared.run("models", "unregister", "tiny", "1.0", status=4).err
    shared.run("models", "unregister", "tiny", "2.0")
    shared.run("models", "unregister", "tiny", "1.0")
    assert shared.run("models", "list", "--json").json() == []
