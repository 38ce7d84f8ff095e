"""A busy version and a failing handler on a real node: neither is taken for an ill node, and nothing counts checks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from tests.support.gateways import PROBLEM, Front, brought_up, with_gateway
from tests.support.sites import HALF, Site, make_site, throughout, until, write_tiny
from tsctl.gateway.envoy.render.upstreams import cluster_name

#: Of a request to `busy`. Six at once wait longer than ten seconds, and not as long as the route allows.
BUSY_S, DEADLINE_S = 2.0, 20.0
FAILING = '''
from handlers.base import ServingHandler
from handlers.schema import Schema


class Failing(ServingHandler):
    """Answers batches itself, as handlers that were written for TorchServe do, and raises at most of them."""

    class Request(Schema):
        x: float

    def load(self):
        pass

    def preprocess(self, items):
        return [item.x for item in items]

    def inference(self, inputs):
        return [2 * x for x in inputs]

    def postprocess(self, outputs):
        return [{"y": y} for y in outputs]

    def handle(self, data, context):
        if any(b"0.5" not in bytes(fields["body"]) for fields in data):
            raise ValueError("not the sample")
        return super().handle(data, context)
'''


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    site = make_site(tmp_path_factory.mktemp("busy") / "site")
    write_tiny(site, "busy", {"1.0": {"inference_s": BUSY_S}}, batch={"size": 1, "max_delay_ms": 1})
    write_tiny(site, "failing", {"1.0": {}})
    (site.root / "archives" / "failing" / "handler.py").write_text(FAILING)
    write_tiny(site, "full", {"1.0": {"inference_s": 0.5}}, batch={"size": 1, "max_delay_ms": 1}, queue_size=2)
    models = ("busy", "failing", "full")
    site.deploy({model: {"default": "1.0", "versions": {"1.0": {"workers": 1}}} for model in models})
    base, metrics = with_gateway(site, {"deadline_s": DEADLINE_S, "idempotent": False})
    with brought_up(site, base, metrics) as running:
        yield running


def is_in_rotation(front: Front, model: str) -> bool:
    return all(host.is_healthy for host in front.gateway.admin.hosts()[cluster_name(model, "1.0")])


def counted(site: Site) -> list[str]:
    """The series of answered requests and of their durations that are not 0."""
    names = ("tsctl_worker_answered_items_total{", "tsctl_worker_stage_seconds_count{", "tsctl_worker_computed_items")
    lines = site.run("metrics", "show", "--raw").out.splitlines()
    return [line for line in lines if line.startswith(names) and not line.endswith(" 0.0")]


def test_nobody_asked_so_nothing_is_counted(front: Front) -> None:
    time.sleep(5)  # health checks come every two seconds, and workers write their counts every second
    assert counted(front.site) == []


def test_six_clients_of_a_slow_model_all_get_their_answers(front: Front) -> None:
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(front.ask, "/predictions/busy") for _ in range(12)]
        throughout(lambda: is_in_rotation(front, "busy"), 8 * BUSY_S, "that the version is in rotation")
        assert {answer.result().status_code for answer in answers} == {200}
    assert is_in_rotation(front, "busy")
    until(
        lambda: any('model="busy"' in line and line.endswith(" 12.0") for line in counted(front.site)), 20, "12 answers"
    )


@pytest.mark.parametrize("body", [b'{"text": "growth = 5% a year"}', b"a=%zz"])
def test_a_form_that_netty_cannot_parse_is_the_clients_mistake(front: Front, body: bytes) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answers = [front.ask("/predictions/failing", body, **form, **{"x-request-id": "form"}) for _ in range(15)]
    for answer in answers:
        assert (answer.status_code, answer.headers["content-type"]) == (400, PROBLEM)
        assert answer.json()["type"] == "urn:tsctl:problem:undecodable-body"
    assert is_in_rotation(front, "failing")
    lines = until(lambda: [line for line in front.log() if line["request_id"] == "form"], 20, "the lines")
    assert {line["attempts"] for line in lines} == {1}


def test_exceptions_of_a_handler_take_no_node_out_and_are_not_tried_again(front: Front) -> None:
    answers = [front.ask("/predictions/failing", b'{"x": 7}', **{"x-request-id": "raises"}) for _ in range(30)]
    assert {answer.status_code for answer in answers} == {500}
    assert {answer.json()["type"] for answer in answers} == {"urn:tsctl:problem:worker-failed"}
    throughout(lambda: is_in_rotation(front, "failing"), 3, "that the version is in rotation")
    assert front.ask("/predictions/failing").status_code == 200
    lines = until(lambda: [line for line in front.log() if line["request_id"] == "raises"], 20, "the lines")
    assert {line["attempts"] for line in lines} == {1}


def test_every_refusal_of_a_full_queue_has_retry_after_at_the_gateway_and_none_at_the_node(front: Front) -> None:
    """TorchServe's own refusal has none, and the gateway adds it."""
    site = front.site
    direct = {**site.headers(), "Content-Type": "application/json"}

    def ask_node(_: int) -> requests.Response:
        return requests.post(f"{site.inference}/predictions/full/1.0", HALF, headers=direct, timeout=30)

    for ask, has_it in ((ask_node, False), (lambda _: front.ask("/predictions/full"), True)):
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(ask, range(12)))
        refused = [answer for answer in answers if answer.status_code != 200]
        assert refused and len(refused) < 12
        assert {answer.status_code for answer in refused} == {503}
        assert {answer.headers.get("retry-after") for answer in refused} == {"1" if has_it else None}
        if has_it:
            assert {answer.headers["content-type"] for answer in refused} == {PROBLEM}
    until(lambda: is_in_rotation(front, "full"), 20, "that the version is in rotation")
