"""Versions on Triton, as clients of the gateway see them; tests/engines has a Triton by itself."""

from __future__ import annotations

import gzip
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from handlers.contract import MODEL_VERSION_HEADER, PROBLEM_MEDIA_TYPE, TIMEOUT_HEADER
from tests.support.engines import give_engine
from tests.support.gateways import Front, brought_up, with_gateway
from tests.support.ports import free_ports
from tests.support.sites import HALF, Site, make_site, until, write_tiny
from tsctl.config.nodes import TritonSpec
from tsctl.nodes.triton.workers import live_workers

SETTINGS = {"long_from": 1e5, "most": 1e9}
#: Characters of an answer that is longer than what Envoy holds of a connection by itself.
LONG = 3_000_000
#: Behind the handler of an archive whose author would have Envoy end its answers elsewhere than they end.
LYING = """
import sys

if "triton_python_backend_utils" in sys.modules:
    import handlers.adapters.triton.raw as raw

    raw.encode = lambda outcome: (
        b"200\\ncontent-type: application/json\\ncontent-length: 3\\ntransfer-encoding: chunked\\nconnection: close\\n"
        b":status: 204\\nupgrade: h2c\\nbad: a\\rset-cookie: b\\nx-kept: yes\\n\\n" + outcome.body
    )
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = make_site(tmp_path_factory.mktemp("triton") / "site")
    [port] = free_ports(1)
    deployment = {
        "nodes": {"local": {"engine": "triton", "address": f"http://127.0.0.1:{port}"}},
        "models": {name: {"default": "1.0", "versions": {"1.0": {"workers": 1}}} for name in ("tiny", "lying")},
    }
    (made.root / "deployment.yaml").write_text(yaml.safe_dump(deployment))
    write_tiny(made, "tiny", {"1.0": SETTINGS}, limits={"request_bytes": 10_000})
    write_tiny(made, "lying", {"1.0": {}})
    with (made.root / "archives" / "lying" / "handler.py").open("a") as handler:
        handler.write(LYING)
    give_engine(made, "triton")
    return made


@pytest.fixture(scope="module")
def front(site: Site) -> Iterator[Front]:
    base, metrics = with_gateway(site, {})
    with brought_up(site, base, metrics) as front:
        until(lambda: front.ask("/predictions/tiny").status_code == 200, 20, "an answer")
        yield front


def problem_of(answer: requests.Response) -> dict[str, Any]:
    assert answer.headers["content-type"] == PROBLEM_MEDIA_TYPE
    document: dict[str, Any] = answer.json()
    assert document["status"] == answer.status_code
    assert (document["model"], document["version"]) == ("tiny", "1.0")
    return document


def test_a_client_cannot_tell_which_engine_answered(front: Front) -> None:
    answer = front.ask("/predictions/tiny", HALF, **{"x-request-id": "mine"})
    assert (answer.status_code, answer.json()) == (200, {"y": 1.0})
    assert answer.headers["content-type"] == "application/json"
    assert (answer.headers[MODEL_VERSION_HEADER], answer.headers["x-request-id"]) == ("1.0", "mine")
    assert "inference-header-content-length" not in answer.headers
    packed = {"content-encoding": "gzip", "accept-encoding": "gzip"}
    assert front.ask("/predictions/tiny", gzip.compress(HALF), **packed).json() == {"y": 1.0}


@pytest.mark.parametrize(
    ("body", "headers", "status", "kind"),
    [
        (b"{", {}, 400, "undecodable-body"),
        (b"", {}, 400, "undecodable-body"),
        (b'{"x": "one"}', {}, 422, "does-not-fit-schema"),
        (b" " * 10_001, {}, 413, "payload-too-large"),
        (gzip.compress(bytes(1 << 20)), {"content-encoding": "gzip"}, 413, "payload-too-large"),
        (HALF, {"Content-Type": "text/plain"}, 415, "unsupported-media-type"),
        (b'{"x": 2e9}', {}, 500, "model-failed"),
        (HALF, {TIMEOUT_HEADER: "0"}, 504, "deadline-passed"),
    ],
)
def test_what_has_no_prediction_is_the_workers_problem_document(
    front: Front, body: bytes, headers: dict[str, str], status: int, kind: str
) -> None:
    answer = front.ask("/predictions/tiny", body, **headers, **{"x-request-id": "mine"})
    document = problem_of(answer)
    assert (answer.status_code, document["type"]) == (status, f"urn:tsctl:problem:{kind}")
    assert document["request_id"] == "mine"
    assert front.ask("/predictions/tiny").status_code == 200


def test_a_long_answer_comes_whole(front: Front) -> None:
    answer = front.ask("/predictions/tiny", json.dumps({"x": LONG / 2}).encode())
    assert answer.json() == "y" * LONG


def test_a_worker_does_not_say_where_its_answer_ends(front: Front) -> None:
    sent = {"Content-Type": "application/json", "x-api-key": front.key}
    with requests.Session() as kept:
        for model, value in (("lying", 0.5), ("tiny", 1.0), ("lying", 2.0), ("tiny", 4.0)):
            body = json.dumps({"x": value}).encode()
            answer = kept.post(f"{front.base}/predictions/{model}", body, headers=sent, timeout=10)
            assert (answer.status_code, answer.json()) == (200, {"y": 2 * value})
            assert int(answer.headers["content-length"]) == len(answer.content)
            if model == "lying":
                assert answer.headers["x-kept"] == "yes"
            assert not {"connection", "transfer-encoding", "upgrade", "set-cookie"} & {*map(str.lower, answer.headers)}


def test_a_killed_worker_is_replaced(front: Front) -> None:
    [worker] = workers_of(front.site)
    os.kill(worker, signal.SIGKILL)
    answers = []

    def is_back() -> bool:
        answers.append(front.ask("/predictions/tiny"))
        return answers[-1].status_code == 200

    until(is_back, 40, "another worker")
    assert {answer.status_code for answer in answers} <= {200, 500, 503}
    for answer in answers[:-1]:
        if answer.status_code != 200:
            problem_of(answer)
    assert workers_of(front.site) != [worker]


def workers_of(site: Site) -> list[int]:
    return list(live_workers(site.pid, site.folder / "repository").get("tiny~1.0", {}).values())


def test_the_address_of_a_node_that_runs_may_not_change(front: Front) -> None:
    deployment = front.site.deployment
    [port] = free_ports(1)
    moved = {**deployment, "nodes": {"local": {"engine": "triton", "address": f"http://127.0.0.1:{port}"}}}
    path = front.site.root / "deployment.yaml"
    try:
        path.write_text(yaml.safe_dump(moved))
        refused = front.site.run("up", status=4)
        assert "deployment.yaml says" in refused.err
    finally:
        path.write_text(yaml.safe_dump(deployment))


def test_an_engine_that_is_not_installed_is_one_line_with_the_command(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    spec = TritonSpec(engine="triton", address=f"http://127.0.0.1:{free_ports(1)[0]}")
    content = {"nodes": {"local": spec.model_dump(exclude_defaults=True)}, "models": {}}
    (site.root / "deployment.yaml").write_text(yaml.safe_dump(content))
    refused = site.run("node", "start", status=4)
    assert "engine triton is not installed" in refused.err
    assert "tsctl engines install triton" in refused.err
