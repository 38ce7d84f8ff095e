"""What a real Envoy makes of a node's answers: the status for a client, who is asked again, and which node is ill."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import requests

from handlers.contract import CHECK_HEADER, CHECK_HEALTH, SENT_HEADER, TIMEOUT_HEADER
from tests.support.gateways import PROBLEM
from tests.support.nodes import Asked, Fronted, Reply, ScriptedNode, fronted, of_torchserve
from tests.support.sites import throughout, until
from tsctl.config.deployment import Cors, RouteSpec
from tsctl.gateway.headers import DEADLINE_HEADER

DEADLINE_S = 2.0
NO_WORKER = of_torchserve(503, "ServiceUnavailableException", 'Model "digits" Version 1.0 has no worker to serve.')
FAILED = of_torchserve(503, "InternalServerException", "Prediction failed")
DIED = of_torchserve(500, "InternalServerException", "Worker died.")
OWN = Reply(422, b'{"error": "x must be positive"}')
#: An answer of a node; what a client gets; and on how many nodes an idempotent route tries it, and one that is not.
ANSWERS = {
    "a form that Netty cannot parse": (of_torchserve(500, "ErrorDataDecoderException", "Bad string: '%zz'"), 400, 1, 1),
    "without a message": (Reply(500, b'{\n  "code": 500,\n  "type": "NullPointerException"\n}\n'), 400, 1, 1),
    "an unknown charset": (of_torchserve(403, "UnsupportedCharsetException", "x-none"), 400, 1, 1),
    "an index": (of_torchserve(500, "StringIndexOutOfBoundsException", "index -1"), 400, 1, 1),
    "an exception of a stock handler": (FAILED, 500, 1, 1),
    "a stock handler without memory": (of_torchserve(507, "InternalServerException", "Out of resources"), 500, 1, 1),
    "a stock handler's own status": (of_torchserve(404, "InternalServerException", "no such user"), 404, 1, 1),
    "a stock handler's own 503": (of_torchserve(503, "InternalServerException", "no licence"), 503, 1, 1),
    "a stock handler's own 507": (of_torchserve(507, "InternalServerException", "too many pixels"), 507, 1, 1),
    "a stock handler's answer of another type": (
        of_torchserve(503, "InternalServerException", "Invalid model predict output"),
        500,
        1,
        1,
    ),
    "a handler that says 503 in the words of a worker": (
        of_torchserve(503, "InternalServerException", "Worker died."),
        503,
        1,
        1,
    ),
    "a status that is none": (of_torchserve(1000, "InternalServerException", "told"), 500, 1, 1),
    "a handler that takes too long": (of_torchserve(504, "InternalServerException", "too long"), 504, 1, 1),
    "a handler's own document": (OWN, 422, 1, 1),
    "a handler's own 503": (Reply(503, b"busy"), 503, 1, 1),
    "a body that is too large": (Reply(413, b""), 413, 1, 1),
    "a worker that died": (DIED, 500, 2, 1),
    "a worker that was killed": (of_torchserve(507, "InternalServerException", "Worker died."), 500, 2, 1),
    "a worker that was scaled down": (of_torchserve(500, "InternalServerException", "Worker scaled down."), 500, 2, 1),
    "a node without memory": (of_torchserve(507, "OutOfMemoryError", "Java heap space"), 500, 2, 1),
    "no worker, or a full queue": (NO_WORKER, 503, 2, 2),
    "a lost model": (of_torchserve(404, "ModelNotFoundException", "Model not found: digits"), 503, 2, 2),
    "a lost version": (of_torchserve(404, "ModelVersionNotFoundException", "Model version: 1.0"), 503, 2, 2),
    "an old token": (of_torchserve(400, "InvalidKeyException", "Token Authorization failed."), 503, 2, 2),
    "a node that hangs up": (Reply(hangs_up=True), 503, 3, 1),
}


class Site:
    """Three nodes behind a gateway with a route of one kind; the nodes answer clients and checks as a test says."""

    def __init__(self) -> None:
        self.to_clients = self.to_checks = Reply()
        self.nodes = [ScriptedNode(name, self._answer) for name in ("a", "b", "c")]
        self.front: Fronted

    def _answer(self, asked: Asked) -> Reply:
        return self.to_checks if asked.is_check else self.to_clients

    @property
    def tries(self) -> int:
        return sum(len(node.requests) for node in self.nodes)

    def all_in_rotation(self) -> bool:
        return all(self.front.is_in_rotation(node) for node in self.nodes)


@contextmanager
def serving(folder: Path, is_idempotent: bool, deadline_s: float = DEADLINE_S) -> Iterator[Site]:
    made = Site()
    with fronted(folder, made.nodes, RouteSpec(idempotent=is_idempotent, deadline_s=deadline_s)) as made.front:
        yield made


@pytest.fixture(scope="module")
def idempotent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serving(tmp_path_factory.mktemp("idempotent"), True) as made:
        yield made


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serving(tmp_path_factory.mktemp("once"), False) as made:
        yield made


@pytest.fixture
def site(idempotent: Site) -> Iterator[Site]:
    """The nodes answer everything with 200, and are in rotation, before and after the test."""
    script = idempotent.nodes[0].script
    yield idempotent
    idempotent.to_clients = idempotent.to_checks = Reply()
    for node in idempotent.nodes:
        node.script = script
    until(idempotent.all_in_rotation, 10, "all nodes in rotation")


@pytest.mark.parametrize("kind", list(ANSWERS))
@pytest.mark.parametrize("route", ["idempotent", "once"])
def test_the_client_is_told_whose_fault_it_was_and_a_node_is_asked_again_where_that_may_help(
    kind: str, route: str, request: pytest.FixtureRequest
) -> None:
    site: Site = request.getfixturevalue(route)
    site.to_clients, status, tries, tries_once = ANSWERS[kind]
    before = site.tries
    answer = site.front.ask(b"a=%zz", **{"content-type": "application/x-www-form-urlencoded", "x-request-id": "mine"})
    assert answer.status_code == status
    assert site.tries - before == (tries if route == "idempotent" else tries_once)
    assert ("retry-after" in answer.headers) == (status == 503 and tries > 1)
    assert "x-tsctl-retry" not in answer.headers
    if kind in ("a handler's own document", "a handler's own 503"):
        assert answer.content == site.to_clients.body
        return
    assert answer.headers["content-type"] == PROBLEM
    assert (answer.json()["status"], answer.json()["request_id"]) == (status, "mine")
    assert answer.json()["detail"]


@pytest.mark.parametrize(("status", "kind"), [(400, "bad-request"), (404, "bad-request"), (503, "worker-failed")])
def test_what_a_stock_handler_says_of_an_error_is_told_to_its_client(site: Site, status: int, kind: str) -> None:
    for said in ('x must be "positive" \\ é\n', "100 %1 {kind}", '"\n}', "y" * 5000):
        site.to_clients = of_torchserve(status, "InternalServerException", said)
        answer = site.front.ask()
        document = answer.json()
        assert (answer.status_code, document["status"], document["type"]) == (
            status,
            status,
            f"urn:tsctl:problem:{kind}",
        )
        assert (document["detail"], document["error"]) == (said, said)
    site.to_clients = of_torchserve(status, "InternalServerException", "")
    assert site.front.ask().json()["detail"]


def test_no_answer_to_a_client_takes_a_node_out_of_rotation(site: Site) -> None:
    for reply, *_ in ANSWERS.values():
        site.to_clients = reply
        for _ in range(15):
            site.front.ask()
    throughout(site.all_in_rotation, 0.5, "that all nodes are in rotation")


def test_a_slow_version_is_not_an_ill_one(site: Site) -> None:
    def slow(asked: Asked) -> Reply:
        time.sleep(DEADLINE_S + 1.5)  # checks as well, which wait in the same queue
        return Reply()

    for node in site.nodes:
        node.script = slow
    with ThreadPoolExecutor(20) as pool:
        answers = [pool.submit(site.front.ask) for _ in range(60)]
        throughout(site.all_in_rotation, 6, "that all nodes are in rotation")
        assert {answer.result().status_code for answer in answers} == {504}


def test_a_full_queue_is_not_an_illness_either(site: Site) -> None:
    site.to_checks = NO_WORKER
    before = [len(node.checks) for node in site.nodes]
    until(lambda: all(len(n.checks) >= b + 3 for n, b in zip(site.nodes, before, strict=True)), 15, "three checks")
    assert site.all_in_rotation()


@pytest.mark.parametrize(
    ("reply", "least"),
    [
        (DIED, 2),
        (of_torchserve(404, "ModelVersionNotFoundException", "Model version: 1.0"), 1),
        (of_torchserve(400, "InvalidKeyException", "Token Authorization failed."), 1),
        (Reply(hangs_up=True), 2),
    ],
)
def test_a_version_that_fails_on_its_own_sample_is_ill(site: Site, reply: Reply, least: int) -> None:
    before = len(site.nodes[0].checks)
    site.to_checks = reply
    until(lambda: not site.front.is_in_rotation(site.nodes[0]), 10, "the node out of rotation")
    assert len(site.nodes[0].checks) - before >= least
    until(lambda: not any(map(site.front.is_in_rotation, site.nodes)), 10, "all nodes out of rotation")
    until(lambda: site.front.ask().status_code == 503, 10, "503 from every thread of Envoy")


def test_a_health_check_says_to_the_worker_what_a_client_does(site: Site) -> None:
    site.front.ask()
    [asked] = [node.requests[-1] for node in site.nodes if node.requests][-1:]
    check = until(lambda: site.nodes[0].checks, 20, "a check")[-1]
    assert check.path == asked.path == "/predictions/digits/1.0"
    assert check.headers["authorization"] == asked.headers["authorization"] == "Bearer token"
    assert check.headers[TIMEOUT_HEADER] == asked.headers[TIMEOUT_HEADER] == f"{DEADLINE_S * 1000:.0f}"
    assert check.headers[CHECK_HEADER] == CHECK_HEALTH


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({}, 2000, 2000),
        ({TIMEOUT_HEADER: "700"}, 700, 700),
        ({TIMEOUT_HEADER: "0"}, 0, 0),
        ({TIMEOUT_HEADER: "86400000"}, 2000, 2000),
        ({DEADLINE_HEADER: "+1000"}, 500, 1000),
        ({DEADLINE_HEADER: "+60000"}, 2000, 2000),
        ({DEADLINE_HEADER: "-1"}, 0, 0),
        ({DEADLINE_HEADER: "+1500", TIMEOUT_HEADER: "300"}, 300, 300),
        ({DEADLINE_HEADER: "+400", TIMEOUT_HEADER: "1900"}, 1, 400),
        ({SENT_HEADER: "1", TIMEOUT_HEADER: "700"}, 700, 700),  # a client's own is removed
    ],
)
def test_a_node_is_told_what_is_left_of_the_clients_time(
    site: Site, headers: dict[str, str], least: int, most: int
) -> None:
    now = time.time() * 1000
    signed = {n: f"{now + int(v):.0f}" if v[0] in "+-" else v for n, v in headers.items()}
    before = {node.name: len(node.requests) for node in site.nodes}
    assert site.front.ask(**signed).status_code == 200
    [asked] = [asked for node in site.nodes for asked in node.requests[before[node.name] :]]
    assert least <= int(asked.headers[TIMEOUT_HEADER]) <= most
    assert abs(int(asked.headers[SENT_HEADER]) - now) < 5000
    assert DEADLINE_HEADER not in asked.headers


@pytest.mark.parametrize("name", [TIMEOUT_HEADER, DEADLINE_HEADER])
@pytest.mark.parametrize("text", ["soon", "-1", "1.5", "0x10", "1e9", "9" * 16])
def test_a_time_that_is_none_reaches_the_worker_who_refuses_it(site: Site, name: str, text: str) -> None:
    site.front.ask(**{name: text})
    assert text in [node.requests[-1].headers[TIMEOUT_HEADER] for node in site.nodes if node.requests]


def test_a_second_try_has_what_the_first_one_left(site: Site) -> None:
    def slowly(asked: Asked) -> Reply:
        if asked.is_check:
            return Reply()
        time.sleep(0.3)
        return NO_WORKER

    for node in site.nodes:
        node.script = slowly
    before = [len(node.requests) for node in site.nodes]
    assert site.front.ask().status_code == 503
    asked = [one for n, b in zip(site.nodes, before, strict=True) for one in n.requests[b:]]
    first, second = sorted(asked, key=lambda one: int(one.headers[SENT_HEADER]))
    assert int(first.headers[TIMEOUT_HEADER]) == DEADLINE_S * 1000
    passed = int(second.headers[SENT_HEADER]) - int(first.headers[SENT_HEADER])
    assert passed >= 300
    assert int(second.headers[TIMEOUT_HEADER]) == DEADLINE_S * 1000 - passed


def test_a_request_is_answered_while_one_of_three_nodes_works(site: Site) -> None:
    for node in site.nodes[:2]:
        node.script = lambda asked: Reply(hangs_up=not asked.is_check)
    assert {site.front.ask().status_code for _ in range(30)} == {200}


def test_a_retry_leaves_the_node_that_failed_though_envoy_got_new_clusters_meanwhile(tmp_path: Path) -> None:
    new_clusters = threading.Event()

    def waits(asked: Asked, fails: bool) -> Reply:
        if not asked.is_check:
            assert new_clusters.wait(60)
        return Reply(hangs_up=fails and not asked.is_check)

    with serving(tmp_path, is_idempotent=True, deadline_s=60) as site, ThreadPoolExecutor(30) as pool:
        failing = site.nodes[0]
        for node in site.nodes:  # all wait, so that each has a third of the requests
            node.script = partial(waits, fails=node is failing)
        answers = [pool.submit(site.front.ask) for _ in range(30)]
        until(lambda: len(failing.requests) > 5, 10, "requests in the hands of the node that will fail")
        site.front.give_new_clusters(site.nodes[::-1])
        new_clusters.set()
        assert {answer.result().status_code for answer in answers} == {200}


def test_without_a_sample_a_node_is_asked_whether_it_knows_the_version(tmp_path: Path) -> None:
    node = ScriptedNode("a", lambda asked: known if asked.is_check else Reply())
    known = Reply()
    with fronted(tmp_path, [node], RouteSpec(), probe=None) as front:
        assert front.is_in_rotation(node)
        assert {(asked.method, asked.path) for asked in node.checks} == {("OPTIONS", "/predictions/digits/1.0")}
        known = of_torchserve(404, "ModelNotFoundException", "Model not found: digits")
        until(lambda: not front.is_in_rotation(node), 20, "the node out of rotation")


PAGE = "https://app.example.com"


def test_pages_of_origins_that_a_route_names_may_ask_and_no_others(tmp_path: Path) -> None:
    node = ScriptedNode("a", lambda asked: Reply())
    with fronted(tmp_path, [node], RouteSpec(cors=Cors(origins=(PAGE,)))) as front:
        url = f"{front.base}/predictions/digits"

        def preflight(**headers: str) -> requests.Response:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            return requests.options(url, headers=names, timeout=5)

        asked = preflight(origin=PAGE, access_control_request_method="POST")  # browsers send no key with it
        assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, PAGE)
        assert "x-api-key" in asked.headers["access-control-allow-headers"]
        other = preflight(origin="https://evil.example", access_control_request_method="POST")
        assert "access-control-allow-origin" not in other.headers
        for headers in ({"origin": PAGE}, {"origin": "", "access_control_request_method": "POST"}):
            assert preflight(**headers).status_code == 405
        for answer, status in ((front.ask(origin=PAGE), 200), (front.ask(origin=PAGE, **{"x-api-key": "none"}), 401)):
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, PAGE)
        assert "access-control-allow-origin" not in front.ask(origin="https://evil.example").headers
        assert [one.method for one in node.requests] == ["POST", "POST"]


def test_without_cors_no_page_of_another_origin_gets_an_answer(site: Site) -> None:
    assert "access-control-allow-origin" not in site.front.ask(origin=PAGE).headers
    asked = {"origin": PAGE, "access-control-request-method": "POST"}
    assert requests.options(f"{site.front.base}/predictions/digits", headers=asked, timeout=5).status_code == 405


@pytest.mark.parametrize("name", ["user_id", "x_api_key", "content_length", "_", "a" * 70 + "_"])
def test_a_refused_header_is_named(site: Site, name: str) -> None:
    before = site.tries
    answer = site.front.ask(**{name: "1"})
    assert (answer.status_code, answer.headers["content-type"]) == (400, PROBLEM)
    assert answer.json()["type"] == "urn:tsctl:problem:bad-request"
    assert f"The name {name[:64]} has an underscore" in answer.json()["detail"]
    assert site.tries == before
