"""Requests that no client should send, in bytes, to a real Envoy before a real node: none reaches more than a route.

What must hold is asked of witnesses and not of answers: the node's own access log, a tap that reads every byte between
gateway and node, a listener that attackers name, Envoy's statistics, and a client whose answers must stay its own.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
import requests
import yaml

from benchmarks.harness.flood import streams_without_window
from handlers.contract import JSON, SENT_HEADER
from tests.support.attacks import Attack, Writer, body_of, number
from tests.support.attacks_h2 import DATA, RESET, Writer2, frames
from tests.support.gateways import PROBLEM, Front, front_of, with_gateway
from tests.support.ports import free_ports
from tests.support.raw_http import END_S, End, Exchange, Message, Place, bytes_of, exchange, read_messages, reset_after
from tests.support.recorders import Listener, Tap
from tests.support.sites import Site, is_alive, make_site, processes_of, until, write_tiny
from tsctl.gateway.access_log import FIELDS
from tsctl.gateway.envoy.admin import Admin
from tsctl.gateway.envoy.process import envoy_path
from tsctl.nodes.torchserve.tokens import read_tokens

SEED = 20_240_601
COMPOSITIONS = 700
AT_ONCE = 32
#: Only a node's or Envoy's own APIs say these.
SECRETS = (
    b"modelName", b"modelUrl", b"nextPageToken", b"workerId", b"queueStats", b"apiVersion", b"openapi", b'"Model ',
    b"workflowName", b"InvalidKey", b"ResourceNotFound", b"MethodNotAllowed", b"# HELP", b"envoy_", b"static_resources",
    b"Bearer ", b"Healthy",
)  # fmt: skip
#: What the gateway itself says to a node.
OWN = {
    "x-tsctl-client": {"local", "small"},
    "x-tsctl-track": {"stable", "pinned", "canary"},
    "x-tsctl-weight": {"10000", "0"},
    "x-tsctl-version": {"1.0", "2.0"},
    "x-tsctl-by": {"weight", "path", "header"},
    "x-tsctl-deadline-by": {"client", "route"},
    "x-tsctl-check": {"health"},
}
FACTORS = {"1.0": 2, "2.0": 3}
ASKED = re.compile(r"POST /predictions/tiny/(1\.0|2\.0) HTTP/1\.1")


def place_of(address: str) -> Place:
    host, _, port = address.removeprefix("http://").partition(":")
    return host, int(port)


@dataclass
class Siege:
    """A gateway under attack, and its witnesses.

    Args:
        tap: stands where the gateway believes its node to be.
        listener: nobody may connect to it.
    """

    front: Front
    tap: Tap
    listener: Listener
    markers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def place(self) -> Place:
        return place_of(self.front.base)

    @property
    def management(self) -> str:
        return str(self.front.site.deployment["nodes"]["local"]["management"])

    @property
    def names(self) -> tuple[bytes, bytes, bytes]:
        """The key, and two addresses that attackers name."""
        return self.front.key.encode(), self.management.removeprefix("http://").encode(), self.listener.address.encode()

    @property
    def writer(self) -> Writer:
        return Writer(*self.names)

    def node_log(self) -> list[str]:
        """Every request that the node has answered on any of its addresses."""
        mark = f"/models/marker-{next(self.markers)}-end"
        assert requests.get(self.management + mark, timeout=10).status_code == 400  # without a token
        return lines_before(self.front.site.folder / "logs" / "access.log", mark)

    def log(self) -> list[dict[str, Any]]:
        """Every line of the gateway's access log; one that is no JSON raises."""
        mark = f"marker-{next(self.markers)}-end"
        self.front.ask("/healthz", **{"x-request-id": mark})
        return [json.loads(line) for line in lines_before(self.front.gateway.files.access_log, mark)]

    def served(self) -> Any:
        """What the node serves, with which workers."""
        models = self.front.gateway.nodes()[0].models()
        return {
            (name, version): replace(one, queue=0) for name in models for version, one in models[name].versions.items()
        }

    @property
    def key_file(self) -> Path:
        return self.front.site.folder / "key_file.json"

    def admin_requests(self) -> int:
        """How many requests came to Envoy's admin interface by way of a listener."""
        name = "cluster.admin.upstream_rq_total"
        return self.front.gateway.admin.counters(f"^{name}$")[name]

    def send(self, attacks: Iterable[Attack], end: End = "quiet") -> list[tuple[Attack, Exchange]]:
        """Every attack on a connection of its own, many at once."""

        def send(attack: Attack) -> tuple[Attack, Exchange]:
            return attack, exchange(self.place, attack.pieces, end, attack.is_head)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(send, attacks))


def lines_before(path: Path, mark: str) -> list[str]:
    """Whole lines of the file in front of the one that has the mark, which is awaited."""

    def at() -> list[int]:
        return [number for number, line in enumerate(path.read_text().split("\n")[:-1]) if mark in line]

    [end] = until(at, 20, f"{mark} in {path.name}")
    return path.read_text().split("\n")[:end]


def with_access_log(site: Site) -> None:
    """The node writes a line for each request, which it does not by default."""
    path: Path = site.root / "log4j2.xml"
    appender = '<File name="access" fileName="${env:LOG_LOCATION}/access.log"><PatternLayout pattern="%m%n"/></File>'
    logger = '<Logger name="ACCESS_LOG" level="info" additivity="false"><AppenderRef ref="access"/></Logger>'
    text = path.read_text().replace("<Appenders>", f"<Appenders>{appender}")
    assert '<Logger name="ACCESS_LOG" level="off"/>' in text
    path.write_text(text.replace('<Logger name="ACCESS_LOG" level="off"/>', logger))


def stand_between(site: Site, tap: Tap) -> None:
    """The deployment names the tap as the node's inference address from now on.

    It names the node's tokens as well, as for a node that another started: its own may not run at another address.
    """
    content = site.deployment
    content["nodes"]["local"] |= {"inference": f"http://{tap.address}", "key_file": str(site.folder / "key_file.json")}
    (site.root / "deployment.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


@pytest.fixture(scope="module")
def place_under_siege(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    """Two versions of `tiny`, seen through a tap; without a supervisor, so that nothing asks the management API."""
    site = make_site(tmp_path_factory.mktemp("attacked") / "site")
    with_access_log(site)
    write_tiny(site, "tiny", {version: {"factor": float(factor)} for version, factor in FACTORS.items()})
    site.deploy({"tiny": {"default": "1.0", "versions": {version: {"workers": 1} for version in FACTORS}}})
    base, metrics = with_gateway(site, {}, request_bytes=4096)
    listener = Listener()
    try:
        site.run("up")
        written = (site.root / "deployment.yaml").read_text()
        tap = Tap(place_of(site.inference))
        stand_between(site, tap)
        site.run("gateway", "stop")  # Envoy would keep the node's own address for as long as it answers there
        site.run("gateway", "start")
        site.run("weights", "set", "tiny", "1.0=100%", "2.0=0%")
        front = front_of(site, base, metrics)
        until(front.all_answer, 20, "both versions behind the tap")
        supervisor = front.pid("keeper")
        os.kill(supervisor, signal.SIGTERM)
        until(lambda: not is_alive(supervisor), 10, "the supervisor's end")
        yield Siege(front, tap, listener)
        (site.root / "deployment.yaml").write_text(written)
    finally:
        site.run("down", status=None)
        listener.close()
    tap.close()
    assert processes_of(site.root) == [], "processes are left behind"


@pytest.fixture
def siege(place_under_siege: Siege) -> Iterator[Siege]:
    """The gateway for one test, during which another client asks on; afterwards, nothing is harmed."""
    siege = place_under_siege
    front = siege.front
    before = (siege.served(), siege.key_file.read_bytes(), front.pid("envoy"), siege.admin_requests())
    node_lines, log_lines = len(siege.node_log()), len(siege.log())
    with Bystander(siege):
        yield siege
    assert_only_predictions(line for line in siege.node_log()[node_lines:] if "-end HTTP" not in line)
    assert siege.listener.heard() == []
    assert_tap_is_clean(siege)
    assert_log_is_true(siege.log()[log_lines + 1 :])
    assert (siege.served(), siege.key_file.read_bytes(), front.pid("envoy"), siege.admin_requests()) == before
    assert is_alive(front.pid("envoy"))
    assert front.gateway.admin.counters("attacker") == {}
    assert requests.get(f"{front.base}/healthz", timeout=10).text == "alive\n"
    log = front.gateway.files.envoy_log.read_text()
    assert not re.search(r"\[(error|critical)\]|[Aa]ssert|Caught|[Bb]acktrace|script log", log), log[-2000:]


class Bystander:
    """A client that asks while the block runs; every answer must be the one to its own number."""

    def __init__(self, siege: Siege) -> None:
        self._siege, self._stop = siege, threading.Event()
        self._wrong: list[str] = []
        self._count = 0
        self._threads = [threading.Thread(target=self._ask) for _ in range(2)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *raised: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert self._wrong == []
        assert self._count > 0

    def _ask(self) -> None:
        with requests.Session() as session:
            session.headers.update({"Content-Type": "application/json", "x-api-key": self._siege.front.key})
            is_first = True
            while is_first or not self._stop.is_set():
                is_first = False
                x = number()
                answer = session.post(f"{self._siege.front.base}/predictions/tiny", data=body_of(x), timeout=60)
                if (answer.status_code, answer.text) != (200, json.dumps({"y": x * 2.0}, separators=(",", ":"))):
                    self._wrong.append(f"{x}: {answer.status_code} {answer.text}")
                self._count += 1
                self._stop.wait(0.02)


def assert_only_predictions(lines: Iterable[str]) -> None:
    """Of the node's own access log: nothing but predictions with a version came, by whatever address."""
    others = [line for line in lines if not re.search(r'"POST /predictions/tiny/(1\.0|2\.0) HTTP/1\.1" \d+ \d+$', line)]
    assert others == []


def assert_tap_is_clean(siege: Siege) -> None:
    """Every byte that the gateway sent to the node is part of a whole request that the gateway itself put together."""
    token = read_tokens(siege.key_file).inference.value
    asked = 0
    for stream in siege.tap.heard():
        messages, rest = read_messages(stream)
        assert not rest or rest.startswith(b"POST /predictions/tiny/"[: len(rest)]), rest[:300]
        for message in messages:
            assert ASKED.fullmatch(message.start), message
            assert message.all("authorization") == [f"Bearer {token}"], message
            asked += "Envoy/HC" not in (message.get("user-agent") or "")
            assert_nothing_of_the_attacker(message)
    assert asked > 0


def assert_nothing_of_the_attacker(message: Message) -> None:
    """What a client wrote by the gateway's names, or what is between it and the gateway only, did not come along."""
    names = dict(message.headers).keys()
    assert not {"x-api-key", "connection", "upgrade", "keep-alive", "proxy-connection"} & names, message
    own = [(name, value) for name, value in message.headers if name.startswith("x-tsctl-")]
    for name, value in own:
        assert value in OWN.get(name, ()) or (name == SENT_HEADER and value.isdigit()), message
    assert len(dict(own)) == len(own), message
    assert not any(name.startswith("x-envoy-") and "attacker" in value for name, value in message.headers), message
    assert not {"x-envoy-max-retries", "x-envoy-retry-on", "x-envoy-upstream-rq-timeout-ms"} & names, message


def assert_log_is_true(lines: list[dict[str, Any]]) -> None:
    """No line was broken or forged, and none gives a request to somebody who did not send it."""
    assert lines
    for line in lines:
        assert line.keys() == FIELDS.keys(), line
        assert line["client"] in {None, "local"}, line
        assert line["track"] in {None, "stable", "pinned", "canary"}, line
        assert line["weight"] in {None, "10000", "0"}, line
        assert line["by"] in {None, "weight", "header", "path"}, line
        assert line["class"] is None and line["user"] is None, line  # no client may name either
        assert line["model"] in {None, "tiny"} and line["version"] in {None, *FACTORS}, line
        if line["status"] == 200:
            assert line["details"] in {"via_upstream", "direct_response"}, line
            assert (line["client"] == "local") == (line["details"] == "via_upstream"), line


def assert_harmless(attack: Attack, exchanged: Exchange) -> None:
    """Each answer is a prediction, a sign of life, or an error; and none says what only an API says."""
    for answer in exchanged.answers:
        assert not any(secret in answer.body for secret in SECRETS), (attack, answer)
        if attack.is_head:
            continue
        if answer.status == 200:
            assert answer.body == b"alive\n" or is_prediction(attack, answer), (attack, answer)
            continue
        assert 400 <= answer.status < 505, (attack, answer)
        if answer.get("content-type") == JSON:  # of the OpenAI API, which has its own errors
            assert b"v1" in unquote_to_bytes(b"".join(attack.pieces)), (attack, answer)
            assert answer.json()["error"].keys() == {"message", "type", "param", "code"}, (attack, answer)
            continue
        assert answer.get("content-type") == PROBLEM, (attack, answer)
        assert answer.json()["status"] == answer.status, (attack, answer)
    assert exchanged.rest == b"" or attack.is_head, (attack, exchanged)


def is_prediction(attack: Attack, answer: Message) -> bool:
    """The model's answer to a number that the attack itself sent."""
    y = answer.json()["y"]
    x = y / FACTORS[str(answer.get("x-model-version"))]
    return b"%d" % x in b"".join(attack.pieces)


def assert_answers(attack: Attack, exchanged: Exchange) -> None:
    """As many answers as foreseen, each with a status that it may have, and then the gateway closed the connection."""
    assert_harmless(attack, exchanged)
    assert attack.answers is not None
    assert len(exchanged.answers) == len(attack.answers), (attack, exchanged)
    for answer, allowed in zip(exchanged.answers, attack.answers, strict=True):
        assert answer.status in allowed, (attack, answer)
    assert exchanged.was_closed, (attack, exchanged)


def test_the_witnesses_see_what_comes(siege: Siege) -> None:
    x = number()
    assert siege.front.ask("/predictions/tiny/2.0", body_of(x)).json() == {"y": x * 3.0}
    messages = [message for stream in siege.tap.heard() for message in read_messages(stream)[0]]
    assert [message.start.split()[1] for message in messages if message.body == body_of(x)] == ["/predictions/tiny/2.0"]
    first, second = siege.node_log(), siege.node_log()
    assert '"GET /models/marker-' in second[len(first)]
    assert any('"POST /predictions/tiny/2.0 HTTP/1.1" 200' in line for line in first)
    other = Listener()
    exchange(other.place, [b"hello"], "quiet")
    assert other.heard() == [b"hello"]
    other.close()


@pytest.mark.parametrize("kind", ["of_targets", "of_first_lines", "of_pipelines", "of_clear_lengths"])
def test_named_shapes_get_the_answers_that_were_foreseen_and_no_more(siege: Siege, kind: str) -> None:
    for attack, exchanged in siege.send(getattr(siege.writer, kind)(), "announced"):
        assert_answers(attack, exchanged)


def test_a_body_whose_end_is_unclear_gets_one_refusal_and_its_connection_is_closed(siege: Siege) -> None:
    for attack, exchanged in siege.send(siege.writer.of_lengths(), "closed"):
        assert_answers(attack, exchanged)


def test_headers_of_an_attacker_mean_nothing(siege: Siege) -> None:
    for attack, exchanged in siege.send(siege.writer.of_headers()):
        assert_harmless(attack, exchanged)
        assert len(exchanged.answers) >= 1, (attack, exchanged)
        if attack.name.startswith(("keyless", "/models")):
            assert 200 not in exchanged.statuses, (attack, exchanged)


def test_compositions_from_a_seed(siege: Siege) -> None:
    for attack, exchanged in siege.send(siege.writer.compositions(SEED, COMPOSITIONS)):
        assert_harmless(attack, exchanged)


def test_halves_of_requests_and_connections_that_are_reset(siege: Siege) -> None:
    halves = list(siege.writer.halves())
    for attack, exchanged in siege.send(halves):
        assert exchanged.answers == (), attack
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda attack: reset_after(siege.place, b"".join(attack.pieces)), halves * 10))
        whole = [siege.writer.request(body=body_of(number())) for _ in range(50)]
        list(pool.map(lambda sent: reset_after(siege.place, sent), whole))


def test_frames_of_http_2_become_right_requests_or_none(siege: Siege) -> None:
    writer = Writer2(*siege.names)
    x = number()
    assert said_in_frames(siege, Attack("right", writer.right(x))) == b'{"y":%.1f}' % (x * 2)
    attacks = list(writer.attacks())
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for attack, bodies in zip(
            attacks, pool.map(lambda attack: said_in_frames(siege, attack), attacks), strict=True
        ):
            assert not any(secret in bodies for secret in SECRETS), (attack, bodies)
            if bodies and "reset" not in attack.name:
                [answer] = json_lines(bodies)
                assert answer.keys() == {"y"} or answer["status"] >= 400, (attack, bodies)


def said_in_frames(siege: Siege, attack: Attack) -> bytes:
    """The bodies of all answers, one behind the other."""
    data, _ = bytes_of(siege.place, attack.pieces, "quiet")
    return b"".join(content for kind, _, content in frames(data) if kind == DATA)


def json_lines(bodies: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in bodies.splitlines()]


def test_the_numbers_page_is_all_that_reaches_the_admin_interface(siege: Siege) -> None:
    before = siege.admin_requests()
    for target in (
        b"/quitquitquit", b"/metrics/../quitquitquit", b"/metrics/%2e%2e/quitquitquit", b"/metrics%2f..%2fquitquitquit",
        b"//metrics", b"/metrics/", b"/metrics;x", b"/stats/prometheus", b"/config_dump", b"http://x/config_dump",
    ):  # fmt: skip
        for method in (b"GET", b"POST"):
            sent = siege.writer.request(target, method, [b"x-envoy-upstream-alt-stat-name: attacker"])
            [answer] = exchange(place_of(siege.front.metrics), [sent]).answers
            assert answer.status in {400, 404}, (target, answer)
    assert siege.admin_requests() == before
    sent = siege.writer.request(b"/metrics?x=/quitquitquit", b"POST", [b"x-http-method-override: GET"])
    assert exchange(place_of(siege.front.metrics), [sent]).statuses == [404]


def test_nobody_spends_the_budget_of_a_client_whose_name_he_knows(siege: Siege) -> None:
    key = siege.front.site.run("keys", "add", "small", "--requests-per-s", "1", "--burst", "3").out.strip()
    named = {"x-api-key": "", "x-tsctl-client": "small"}
    assert [siege.front.ask("/healthz", **named).status_code for _ in range(6)] == [200] * 6
    x = number()
    assert siege.front.ask("/models", **named).status_code == 404
    assert siege.front.ask("/predictions/tiny", body_of(x), **{"x-tsctl-client": "small"}).status_code == 200
    assert siege.front.ask("/healthz", **{"x-api-key": key}).status_code == 200
    siege.front.site.run("keys", "revoke", "small")


@pytest.mark.parametrize("media_type", ["application/grpc", "application/grpc+proto", "application/grpc-web"])
def test_what_calls_itself_grpc_is_not_told_success(siege: Siege, media_type: str) -> None:
    for target in (b"/predictions/tiny", b"/models", b"/healthz", b"/inference.GRPCInferenceService/ModelInfer"):
        sent = siege.writer.request(target, headers=[b"TE: trailers"])
        sent = sent.replace(b"application/json", media_type.encode())
        for message in (sent, sent.replace(siege.front.key.encode(), b"unknown")):
            [answer] = exchange(siege.place, [message]).answers
            assert answer.get("grpc-status") is None
            if "web" not in media_type:  # the key is asked for where gRPC is answered, which needs HTTP/2
                is_refused = b"Infer" in target and message != sent
                status, kind = (401, "unauthorized") if is_refused else (415, "unsupported-media-type")
                assert (answer.status, answer.get("content-type")) == (status, PROBLEM)
                assert answer.json()["type"] == f"urn:tsctl:problem:{kind}"
                assert answer.json()["request_id"] == answer.get("x-request-id")


def test_a_request_that_does_not_arrive_whole_is_answered_408(siege: Siege, tmp_path: Path) -> None:
    [head, chunks] = [siege.writer.request(is_last=False)[:60], siege.writer.request(is_last=False)[:-3]]
    with impatient_envoy(siege, tmp_path) as place:
        for sent in (head, chunks):
            exchanged = exchange(place, [sent], "closed")
            assert exchanged.statuses == [408]
            assert exchanged.answers[0].json()["type"] == "urn:tsctl:problem:too-slow"
            assert exchanged.was_closed


def test_an_answer_that_its_client_does_not_take_is_given_up(siege: Siege, tmp_path: Path) -> None:
    streams = 100
    with impatient_envoy(siege, tmp_path) as place, socket.create_connection(place, timeout=END_S) as client:
        client.sendall(streams_without_window("/nowhere", streams))
        came = b""
        while len(reset := [stream for kind, stream, _ in frames(came) if kind == RESET]) < streams:
            came += client.recv(1 << 16)
    assert sorted(reset) == [2 * number + 1 for number in range(streams)]


@contextmanager
def impatient_envoy(siege: Siege, folder: Path) -> Iterator[Place]:
    """Another Envoy with the gateway's own files, but half a second instead of its minute; where it takes clients."""
    client, metrics = free_ports(2)
    files = siege.front.gateway.files
    text = files.bootstrap.read_text()
    for old, new in (
        (str(files.admin), str(folder / "admin.sock")), (str(files.access_log), str(folder / "access.log")),
        ('"request_timeout": "60s"', '"request_timeout": "0.5s"'),
        ('"request_headers_timeout": "10s"', '"request_headers_timeout": "0.5s"'),
        ('"stream_flush_timeout": "15s"', '"stream_flush_timeout": "0.5s"'),
        (f'"port_value": {siege.place[1]}', f'"port_value": {client}'),
        (f'"port_value": {place_of(siege.front.metrics)[1]}', f'"port_value": {metrics}'),
    ):  # fmt: skip
        assert old in text, old
        text = text.replace(old, new)
    (folder / "envoy.json").write_text(text)
    command = [str(envoy_path()), "-c", str(folder / "envoy.json"), "--disable-hot-restart", "-l", "error"]
    with (folder / "envoy.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            until(Admin(folder / "admin.sock").is_live, 20, "the other Envoy")
            yield "127.0.0.1", client
        finally:
            process.terminate()
            process.wait()
