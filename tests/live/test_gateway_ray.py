"""What a real Envoy makes of the errors of Ray's proxies, and of the answers that pass them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.contract import MODEL_VERSION_HEADER
from tests.support.gateways import PROBLEM
from tests.support.nodes import Asked, Fronted, Reply, ScriptedNode, fronted
from tests.support.sites import until
from tsctl.config.deployment import RouteSpec

TEXT = {"content-type": "text/plain; charset=utf-8"}


class Proxies:
    """Two of Ray's proxies; they answer clients as a test says."""

    def __init__(self) -> None:
        self.reply = Reply()
        self.nodes = [ScriptedNode(name, self._answer, "ray") for name in ("a", "b")]
        self.front: Fronted

    def _answer(self, asked: Asked) -> Reply:
        return Reply() if asked.is_check else self.reply

    def asked(self) -> int:
        return sum(len(node.requests) for node in self.nodes)


@pytest.fixture(scope="module")
def proxies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxies]:
    made = Proxies()  # of an idempotent route, as they are by default
    folder: Path = tmp_path_factory.mktemp("ray")
    with fronted(folder, made.nodes, RouteSpec(deadline_s=5.0)) as front:
        made.front = front
        until(lambda: all(map(front.is_in_rotation, made.nodes)), 20, "both proxies in rotation")
        yield made


@pytest.mark.parametrize(
    ("status", "text", "told", "kind", "tries"),
    [
        (404, "Path '/predictions/digits/1.0' not found. Ping http://.../-/routes.", 503, "unavailable", 2),
        (503, "Request dropped due to backpressure", 503, "unavailable", 2),
        (408, "Request 1234 timed out after 5s.", 504, "deadline-passed", 1),
        (500, "The actor died unexpectedly before finishing this task.\n\tpid: 4711", 503, "unavailable", 2),
    ],
    ids=["no-route", "full", "late", "lost"],
)
def test_an_error_of_a_proxy_is_told_as_what_it_was(
    proxies: Proxies, status: int, text: str, told: int, kind: str, tries: int
) -> None:
    proxies.reply, before = Reply(status, text.encode(), TEXT), proxies.asked()
    answer = proxies.front.ask(**{"x-request-id": "mine"})
    document = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (told, PROBLEM)
    assert (document["status"], document["type"].rpartition(":")[2].rpartition("/")[2]) == (told, kind)
    assert (document["request_id"], document["model"], document["version"]) == ("mine", "digits", "1.0")
    assert text.split(maxsplit=1)[0] not in answer.text, "nothing of Ray's reaches a client"
    assert proxies.asked() - before == tries


def test_an_answer_of_a_worker_passes(proxies: Proxies) -> None:
    proxies.reply = Reply(500, b"a handler's own", {**TEXT, MODEL_VERSION_HEADER: "1.0"})
    answer = proxies.front.ask()
    assert (answer.status_code, answer.text) == (500, "a handler's own")
    document = b'{"type": "x", "status": 422}'
    proxies.reply = Reply(422, document, {"content-type": PROBLEM})
    answer = proxies.front.ask()
    assert (answer.status_code, answer.content) == (422, document)
