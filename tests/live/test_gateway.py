"""The gateway with a real Envoy before a real node: what clients get, what nobody reaches, and every change of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import struct
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import grpc
import pytest
import requests
import yaml
from tritonclient.grpc import service_pb2 as pb

from benchmarks.harness.client import under_load
from handlers.contract import GRPC_SERVICE
from tests.support.gateways import PROBLEM, Front, brought_up, certificate, front_of, with_gateway
from tests.support.ports import free_ports
from tests.support.raw_http import read_messages
from tests.support.recorders import Listener
from tests.support.sites import HALF, Site, is_alive, make_site, throughout, until, write_tiny
from tsctl.config.deployment import Budget, Sticky
from tsctl.config.nodes import TorchServeSpec
from tsctl.config.weights import TOTAL
from tsctl.errors import ConflictError, GatewayError
from tsctl.gateway import change, state, sync
from tsctl.gateway.counters import REQUESTS, parse_page
from tsctl.gateway.envoy import supervisor
from tsctl.gateway.envoy.messages import document
from tsctl.gateway.files import read_document
from tsctl.gateway.keys import digest, new_key, record_of, revoked
from tsctl.gateway.publish import put_clusters, put_route_file, put_routes
from tsctl.gateway.state import changing, traffic_in_force, upstreams_written
from tsctl.gateway.traffic import Shadow
from tsctl.nodes.node import Node
from tsctl.nodes.observe import observe
from tsctl.nodes.observed import ObservedNode

SHADOW = Shadow("2.0", TOTAL)


def versions_of(front: Front, count: int, **headers: str) -> Counter[str]:
    with requests.Session() as session:
        session.headers.update({"Content-Type": "application/json", "x-api-key": front.key, **headers})
        answers = [session.post(f"{front.base}/predictions/tiny", data=HALF, timeout=30) for _ in range(count)]
    assert {answer.status_code for answer in answers} == {200}
    for answer in answers:
        assert answer.json() == {"y": 1.0 if answer.headers["x-model-version"] == "1.0" else 1.5}
    return Counter(answer.headers["x-model-version"] for answer in answers)


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """Versions 1.0 and 2.0 of `tiny`, and `slow`, which takes longer than its route allows."""
    site = make_site(tmp_path_factory.mktemp("gateway") / "site")
    write_tiny(site, "tiny", {"1.0": {"factor": 2.0}, "2.0": {"factor": 3.0}})
    write_tiny(site, "slow", {"1.0": {"inference_s": 0.7}})
    site.deploy(
        {
            "tiny": {"default": "1.0", "versions": {"1.0": {"workers": 1}, "2.0": {"workers": 1}}},
            "slow": {"default": "1.0", "versions": {"1.0": {"workers": 1}}},
        }
    )
    base, metrics = with_gateway(site, {"sticky": {"header": "x-user-id"}, "deadline_s": 5.0}, request_bytes=4096)
    content = site.deployment
    content["models"]["slow"]["route"] = {"deadline_s": 0.3, "pinned": False, "canary_header": False}
    (site.root / "deployment.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    with brought_up(site, base, metrics) as running:
        yield running


def assert_problem(answer: requests.Response, status: int, kind: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    content: dict[str, Any] = answer.json()
    assert content["type"] == f"urn:tsctl:problem:{kind}"
    assert content["status"] == status
    assert content["request_id"] == answer.headers["x-request-id"]
    assert {"title", "detail", "request_id", "model", "version"} <= content.keys()
    return content


def test_an_answer_says_its_version_and_the_clients_own_request_id(front: Front) -> None:
    answer = front.ask("/predictions/tiny", **{"x-request-id": "mine-1"})
    assert (answer.status_code, answer.json()) == (200, {"y": 1.0})
    assert (answer.headers["x-model-version"], answer.headers["x-request-id"]) == ("1.0", "mine-1")
    other = front.ask("/predictions/tiny")
    assert len(other.headers["x-request-id"]) == 36
    problem = front.ask("/predictions/tiny", b'{"x": "no"}', **{"x-request-id": "mine-2"})
    assert assert_problem(problem, 422, "does-not-fit-schema")["request_id"] == "mine-2"


def test_without_a_known_key_there_is_no_answer(front: Front) -> None:
    for key in ("", "wrong", front.key + "x", front.key.upper()):
        assert_problem(front.ask("/predictions/tiny", **{"x-api-key": key}), 401, "unauthorized")
    bare = requests.post(f"{front.base}/predictions/tiny", data=HALF, timeout=10)
    assert_problem(bare, 401, "unauthorized")


@pytest.mark.parametrize(
    "path",
    [
        "/", "/models", "/models/tiny", "/token", "/workflows", "/ping", "/predictions", "/predictions/", "/v1/models",
        "/predictions/other", "/predictions/tiny/", "/predictions/tiny/3.0", "/predictions/tiny/1.0/x",
        "/predictions/tiny/../../models", "/predictions/tiny/%2e%2e/%2e%2e/models", "/predictions%2ftiny",
        "/predictions/tiny%2f..%2f..%2fmodels", "//models", "/predictions//../models", "/predictions/tiny%00",
        "/predictions/tiny;/models", "/predictions/%74iny/../../models", "/predictions/slow/1.0", "/explanations/tiny",
        "/metrics", "/stats", "/config_dump", "/models?x=/predictions/tiny", "/.%2e/models",
        "/predictions/tiny\\..\\models",
    ],
)  # fmt: skip
def test_everything_that_is_no_route_is_404(front: Front, path: str) -> None:
    host, _, port = front.base.removeprefix("http://").partition(":")
    for method in ("GET", "POST", "PUT", "DELETE"):
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            request = f"{method} {path} HTTP/1.1\r\nHost: x\r\nx-api-key: {front.key}\r\nContent-Length: 0\r\n\r\n"
            connection.sendall(request.encode())
            head = connection.recv(65536).decode()
        assert head.split()[1] in {"404", "400"}, head
        assert "modelName" not in head


def test_a_route_knows_one_method_and_a_limit_of_bytes(front: Front) -> None:
    answer = front.ask("/predictions/tiny", b"", "GET")
    assert_problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "POST"
    assert_problem(front.ask("/predictions/tiny", b" " * 5000), 413, "payload-too-large")
    assert front.ask("/predictions/tiny?a=b").status_code == 200


def test_clients_of_the_open_inference_protocol_are_answered_in_it(front: Front) -> None:
    body = json.dumps(
        {"id": "7", "inputs": [{"name": "x", "shape": [3, 1], "datatype": "FP32", "data": [0.5, 1, 2]}]}
    ).encode()
    answer = front.ask("/v2/models/tiny/infer", body)
    assert (answer.status_code, answer.headers["x-model-version"]) == (200, "1.0")
    expected = {"name": "y", "shape": [3], "datatype": "FP64", "data": [1.0, 2.0, 4.0]}
    assert answer.json() == {"model_name": "tiny", "model_version": "1.0", "id": "7", "outputs": [expected]}
    assert front.ask("/v2/models/tiny/versions/1.0/infer", body).json() == answer.json()
    document = assert_problem(front.ask("/v2/models/tiny/infer", HALF), 422, "does-not-fit-schema")
    assert document["error"] == document["detail"]
    # the header is the gateway's to set, on these paths alone
    assert front.ask("/predictions/tiny", HALF, **{"x-tsctl-protocol": "oip-v2"}).json() == {"y": 1.0}
    assert front.ask("/v2/models/tiny/infer", body, **{"x-tsctl-protocol": "none"}).status_code == 200
    assert requests.get(f"{front.base}/v2/health/live", timeout=10).json() == {"live": True}
    assert requests.get(f"{front.base}/v2/health/ready", timeout=10).status_code == 200
    assert_problem(front.ask("/v2/models/tiny/versions/9.9/infer", body), 404, "not-found")
    assert_problem(front.ask("/v2/models/tiny/infer", b"", "GET"), 405, "method-not-allowed")
    until(lambda: "oip-v2" in {line["protocol"] for line in front.log()}, 15, "a line of the access log")


def over_grpc(front: Front, model: str, x: float, id_: str = "", **metadata: str) -> tuple[str, str]:
    """Version of the answer, or code and details."""
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", shape=[1], datatype="FP64")
    raw = [struct.pack("<d", x)]
    message = pb.ModelInferRequest(
        model_name=model, id=id_, inputs=[tensor], raw_input_contents=raw
    ).SerializeToString()
    sent = [(name.replace("_", "-"), value) for name, value in {"x-api-key": front.key, **metadata}.items()]
    with grpc.insecure_channel(front.base.removeprefix("http://")) as channel:
        try:
            ask = channel.unary_unary(f"/{GRPC_SERVICE}/ModelInfer")
            body, call = ask.with_call(message, timeout=10, metadata=sent)
        except grpc.RpcError as error:
            return error.code().name, error.details()
    answer = pb.ModelInferResponse.FromString(body)
    version = dict(call.initial_metadata())["x-model-version"]
    assert answer.model_version == version
    assert struct.unpack("<d", answer.raw_output_contents[0]) == (x * {"1.0": 2, "2.0": 3}[version],)
    return version, ""


def counted(front: Front, model: str) -> Counter[tuple[str, str, str]]:
    """Requests by version, status and what chose the version, as rollouts read them."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for sample in parse_page(requests.get(f"{front.metrics}/metrics", timeout=10).text):
        if sample.name == REQUESTS and sample.labels.get("model") == model:
            counts[sample.labels["version"], sample.labels["status"], sample.labels["by"]] += sample.value
    return counts


def test_requests_over_grpc_have_the_weights_limits_and_counts_of_rest(front: Front) -> None:
    front.site.run("weights", "set", "tiny", "1.0=50%", "2.0=50%")
    before = counted(front, "tiny")
    versions = Counter(over_grpc(front, "tiny", 0.5)[0] for _ in range(60))
    assert versions.keys() == {"1.0", "2.0"} and min(versions.values()) > 10  # else once in 10^6 runs
    assert {over_grpc(front, "tiny", 0.5, x_track="canary")[0] for _ in range(5)} == {"2.0"}
    assert len({over_grpc(front, "tiny", 0.5, x_user_id="u-7")[0] for _ in range(8)}) == 1
    code, details = over_grpc(front, "tiny", float("nan"))
    assert (code, details) == ("INVALID_ARGUMENT", "inputs.0.raw_input_contents.0: a value of FP64 is a finite number.")
    assert over_grpc(front, "slow", 0.5)[0] == "DEADLINE_EXCEEDED"
    assert over_grpc(front, "tiny", 0.5, "x" * 5000)[0] == "RESOURCE_EXHAUSTED"  # a body of 4 KiB is the limit

    def grown() -> dict[str, int]:
        """By status and what chose the version."""
        statuses: Counter[str] = Counter()
        for (_, status, by), value in (counted(front, "tiny") - before).items():
            statuses[f"{status} {by}"] += value
        return dict(statuses)

    until(lambda: grown() == {"200 weight": 68, "200 header": 5, "422 weight": 1}, 15, "the counters")
    front.site.run("weights", "set", "tiny", "1.0=100%")
    key = front.site.run("keys", "add", "few", "--requests-per-s", "1", "--burst", "2").out.strip()
    codes = [over_grpc(front, "tiny", 0.5, **{"x-api-key": key})[0] for _ in range(6)]
    assert codes[:2] == ["1.0", "1.0"] and codes.count("RESOURCE_EXHAUSTED") >= 3
    front.site.run("keys", "revoke", "few")
    assert over_grpc(front, "tiny", 0.5, **{"x-api-key": key})[0] == "UNAUTHENTICATED"


def test_weights_are_in_force_when_the_command_returns(front: Front) -> None:
    assert versions_of(front, 10) == {"1.0": 10}
    assert front.site.run("weights", "set", "tiny", "1.0=0%", "2.0=100%").out == "tiny: 2.0 100%, 1.0 0%\n"
    assert versions_of(front, 10) == {"2.0": 10}
    front.site.run("weights", "set", "tiny", "1.0=50%", "2.0=50%")
    split = versions_of(front, 200)
    assert 50 < split["1.0"] < 150  # a fair coin leaves this range once in 10^12 runs
    [shown] = [
        route for route in front.site.run("weights", "show", "tiny", "--json").json() if route["model"] == "tiny"
    ]
    assert shown["weights"] == {"1.0": 5000, "2.0": 5000}
    front.site.run("weights", "set", "tiny", "1.0=100%")


@pytest.mark.parametrize(
    ("weights", "status", "reason"),
    [
        (["1.0=90%", "2.0=9%"], 2, "the weights sum to 99%, not to 100%"),
        (["1.0=90%", "9.9=10%"], 5, "no node serves tiny 9.9; served are 1.0, 2.0"),
        (["1.0=101%"], 2, "expected a percentage from 0 to 100"),
        (["1.0"], 2, "expected VERSION=PERCENT"),
        (["1.0=50%", "1.0=50%"], 2, "version 1.0 has two weights"),
    ],
)
def test_weights_that_cannot_be_are_refused(front: Front, weights: list[str], status: int, reason: str) -> None:
    before = front.site.run("weights", "show").out
    assert reason in front.site.run("weights", "set", "tiny", *weights, status=status).err
    assert front.site.run("weights", "show").out == before


def test_a_version_that_cannot_answer_gets_no_weight(front: Front) -> None:
    front.site.run("models", "scale", "tiny", "2.0", "0")
    try:
        refused = front.site.run("weights", "set", "tiny", "1.0=50%", "2.0=50%", status=5)
        assert "tiny 2.0 is not ready on any node (local), so it cannot get traffic" in refused.err
        until(lambda: not front.all_answer(), 20, "Envoy sees that 2.0 cannot answer")
    finally:
        front.site.run("models", "scale", "tiny", "2.0", "1")
        front.site.run("gateway", "start")
    until(front.all_answer, 20, "every version")
    front.site.run("weights", "set", "tiny", "1.0=99%", "2.0=1%")
    front.site.run("weights", "set", "tiny", "1.0=100%")


def test_what_envoy_refuses_leaves_what_was_in_force(front: Front) -> None:
    gateway = front.gateway
    written = read_document(gateway.files.routes)
    assert written is not None
    resources = json.loads(json.dumps(written["resources"]))
    resources[0]["virtual_hosts"][0]["routes"].insert(
        0, {"match": {"path": "/predictions/tiny"}, "route": {"cluster": "no~cluster"}}
    )
    with changing(gateway), pytest.raises(GatewayError, match="unknown cluster 'no~cluster'") as refused:
        put_route_file(gateway, document(resources))
    assert refused.value.exit_code == 5
    assert read_document(gateway.files.routes) == written
    assert front.ask("/predictions/tiny").status_code == 200


def test_of_two_writers_one_is_told_and_loses(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "LOCK_S", 0.2)
    message = "the gateway is being changed by another tsctl"
    with changing(front.gateway), pytest.raises(ConflictError, match=message) as conflict:
        change.set_weights(front.gateway, "tiny", {"1.0": 10_000})
    assert conflict.value.exit_code == 7


def test_a_user_stays_on_his_version_and_only_moves_towards_the_canary(front: Front) -> None:
    users = [f"user-{number}" for number in range(60)]

    def on_canary() -> set[str]:
        moved = set()
        for user in users:
            versions = versions_of(front, 3, **{"x-user-id": user})
            assert len(versions) == 1, f"{user} met {versions}"
            if "2.0" in versions:
                moved.add(user)
        return moved

    before: set[str] = set()
    for share in (10, 40, 60, 95):
        front.site.run("weights", "set", "tiny", f"1.0={100 - share}%", f"2.0={share}%")
        now = on_canary()
        assert before <= now
        before = now
    assert 45 < len(before) <= 60
    front.site.run("weights", "set", "tiny", "1.0=100%")


def test_a_cookie_keeps_a_user_on_his_version_as_well(front: Front) -> None:
    gateway = front.gateway
    target = gateway.deployment.models["tiny"]
    by_cookie = target.model_copy(update={"route": target.route.model_copy(update={"sticky": Sticky(cookie="user")})})
    models = {**gateway.deployment.models, "tiny": by_cookie}
    with changing(gateway):
        before = traffic_in_force(gateway).values()
        half = [route.weighted({"1.0": 5000, "2.0": 5000}) if route.model == "tiny" else route for route in before]
        put_routes(replace(gateway, deployment=gateway.deployment.model_copy(update={"models": models})), half)
        try:
            met = [set(versions_of(front, 4, cookie=f"other=1; user={number}")) for number in range(30)]
        finally:
            put_routes(gateway, before)
    assert {len(versions) for versions in met} == {1}
    assert set().union(*met) == {"1.0", "2.0"}


def test_testers_reach_the_canary_and_clients_may_name_a_version(front: Front) -> None:
    front.site.run("weights", "set", "tiny", "1.0=100%", "2.0=0%")
    assert versions_of(front, 3, **{"x-track": "canary"}) == {"2.0": 3}
    assert front.ask("/predictions/tiny/2.0").json() == {"y": 1.5}
    assert front.ask("/predictions/tiny/1.0").json() == {"y": 1.0}


def test_a_shadow_gets_copies_and_no_client_notices(front: Front) -> None:
    def copies() -> int:
        return front.gateway.admin.counter("cluster.tiny~2%2E0~shadow.upstream_rq_completed")

    shadowed = front.site.run("shadow", "set", "tiny", "2.0", "--percent", "100").out
    assert shadowed == "tiny: 100% of the requests are copied to 2.0\n"
    assert versions_of(front, 20) == {"1.0": 20}
    until(lambda: copies() == 20, 10, "twenty copies")
    front.site.run("shadow", "clear", "tiny")
    versions_of(front, 5)
    throughout(lambda: copies() <= 20, 0.3, "no copy more")
    until(lambda: "tiny~2.0~shadow" not in front.gateway.admin.active_clusters(), 10, "no cluster of the shadow")


def test_a_copy_is_marked_and_its_client_answered_though_nobody_answers_the_copy(front: Front) -> None:
    gateway, silent = front.gateway, Listener()
    [upstream] = [upstream for upstream in upstreams_written(gateway) if upstream.key == ("tiny", "2.0")]
    [own] = upstream.endpoints
    with changing(gateway):
        traffic, upstreams = traffic_in_force(gateway).values(), upstreams_written(gateway)
        shadowed = [replace(route, shadow=SHADOW) if route.model == "tiny" else route for route in traffic]
        elsewhere = replace(upstream, probe=None, endpoints=(replace(own, port=silent.place[1]),))
        put_clusters(gateway, [elsewhere if one == upstream else one for one in upstreams], shadowed)
        put_routes(gateway, shadowed)

        def is_copied() -> bool:
            answer = front.ask("/predictions/tiny", **{"x-request-id": "copied"})
            assert (answer.status_code, answer.headers["x-model-version"]) == (200, "1.0")
            assert answer.elapsed.total_seconds() < 2
            return HALF in b"".join(silent.heard())

        try:
            until(is_copied, 10, "a copy")
        finally:
            put_routes(gateway, traffic)
            put_clusters(gateway, upstreams, traffic)
            silent.close()
    [message, *_], _ = read_messages(next(stream for stream in silent.heard() if HALF in stream))  # not a check
    assert (message.start, message.body) == ("POST /predictions/tiny/2.0 HTTP/1.1", HALF)
    assert message.all("x-tsctl-shadow") == ["1"]
    assert message.all("x-request-id") == ["copied"]


def test_a_budget_is_a_clients_own(front: Front) -> None:
    key = front.site.run("keys", "add", "small", "--requests-per-s", "1", "--burst", "3").out.strip()
    answers = [front.ask("/predictions/tiny", **{"x-api-key": key}) for _ in range(6)]
    assert [answer.status_code for answer in answers[:3]] == [200] * 3
    assert_problem(answers[-1], 429, "over-budget")
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert front.ask("/predictions/tiny").status_code == 200
    front.site.run("keys", "revoke", "small")


def test_of_many_clients_each_has_a_budget(front: Front) -> None:
    gateway = front.gateway
    spec = gateway.spec.model_copy(update={"budget": Budget(requests_per_s=1, burst=2)})
    keys = [new_key() for _ in range(30)]  # more than Envoy keeps of buckets that it makes by itself
    records = [record_of(key, f"client-{number}", None, None) for number, key in enumerate(keys)]
    with changing(gateway):  # the supervisor waits, which would write the deployment's own budget
        before = read_document(gateway.files.routes)
        assert before is not None
        small = replace(gateway, spec=spec)
        plain = {digest(key): key for key in keys}
        put_routes(small, traffic_in_force(gateway).values(), records, plain)
        try:
            begin = time.monotonic()
            order = [key for _ in range(4) for key in keys for _ in range(3)]
            asked = [front.ask("/predictions/tiny", **{"x-api-key": key}).status_code for key in order]
            seconds = time.monotonic() - begin
        finally:
            put_route_file(gateway, before)
    statuses = Counter(asked)
    assert set(statuses) == {200, 429}
    assert 2 * len(keys) <= statuses[200] <= (2 + 1 + seconds) * len(keys)


def test_a_revoked_key_is_refused_when_the_command_returns(front: Front) -> None:
    key = front.site.run("keys", "add", "leaver").out.strip()
    assert front.ask("/predictions/tiny", **{"x-api-key": key}).status_code == 200
    listed = front.site.run("keys", "list").out
    assert "leaver" in listed
    assert key not in listed
    for path in (front.site.root / ".tsctl" / "gateway").rglob("*"):
        if path.is_file():
            assert path.stat().st_mode & 0o077 == 0, f"{path} can be read by others"
            assert (key.encode() in path.read_bytes()) == (path.name == "routes.json"), path
    front.site.run("keys", "revoke", "leaver")
    assert_problem(front.ask("/predictions/tiny", **{"x-api-key": key}), 401, "unauthorized")


def test_a_silent_node_keeps_no_key_in_force(front: Front) -> None:
    gateway = front.gateway
    key = front.site.run("keys", "add", "leaver").out.strip()
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(1) as aside:
        inference, metrics = free_ports(2)
        node = TorchServeSpec(
            inference=f"http://127.0.0.1:{inference}",
            management=f"http://127.0.0.1:{silent.getsockname()[1]}",
            metrics=f"http://127.0.0.1:{metrics}",
            key_file=str(front.site.folder / "key_file.json"),
        )
        nodes = {**gateway.deployment.nodes, "silent": node}
        more = replace(gateway, deployment=gateway.deployment.model_copy(update={"nodes": nodes}))
        following = aside.submit(sync.sync, more)
        throughout(lambda: not following.done(), 0.3, "the wait for the silent node")
        change.set_clients(gateway, lambda records: revoked(records, "leaver"), {})
        assert not following.done(), "the change waited for the silent node"
        assert_problem(front.ask("/predictions/tiny", **{"x-api-key": key}), 401, "unauthorized")
        assert following.result() == []


def test_what_a_node_said_before_somebody_else_asked_it_is_forgotten(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = front.gateway

    def overtaken(nodes: Sequence[Node]) -> list[ObservedNode]:
        observed = observe(nodes)
        monkeypatch.setattr(sync, "observe", observe)
        front.site.run("models", "scale", "slow", "1.0", "0", "--force")
        sync.sync(gateway)
        return observed

    monkeypatch.setattr(sync, "observe", overtaken)
    try:
        sync.sync(gateway)
        assert [len(upstream.endpoints) for upstream in upstreams_written(gateway) if upstream.model == "slow"] == [0]
    finally:
        front.site.run("models", "scale", "slow", "1.0", "1")
    until(front.all_answer, 20, "every version")


def test_a_deadline_ends_a_request_with_504(front: Front) -> None:
    answer = front.ask("/predictions/slow")
    assert assert_problem(answer, 504, "deadline-passed")["version"] == answer.headers["x-model-version"] == "1.0"


def test_health_for_whoever_balances_before_the_gateway(front: Front) -> None:
    assert requests.get(f"{front.base}/healthz", timeout=5).status_code == 200
    until(lambda: requests.get(f"{front.base}/readyz", timeout=5).status_code == 200, 10, "ready")
    front.site.run("models", "scale", "slow", "1.0", "0", "--force")
    try:
        until(lambda: requests.get(f"{front.base}/readyz", timeout=5).status_code == 503, 20, "not ready")
        answer = front.ask("/predictions/slow")
        assert assert_problem(answer, 503, "unavailable")["version"] == answer.headers["x-model-version"] == "1.0"
        assert front.ask("/predictions/tiny").status_code == 200
    finally:
        front.site.run("models", "scale", "slow", "1.0", "1")
    until(lambda: requests.get(f"{front.base}/readyz", timeout=5).status_code == 200, 20, "ready again")


def test_each_request_is_a_line_of_the_log(front: Front) -> None:
    front.ask("/predictions/tiny", **{"x-request-id": "logged-1"})
    [line] = until(lambda: [line for line in front.log() if line["request_id"] == "logged-1"], 20, "the line")
    assert (line["client"], line["model"], line["version"]) == ("local", "tiny", "1.0")
    assert (line["track"], line["weight"], line["status"], line["flags"]) == ("stable", "10000", 200, "-")
    assert line["bytes_in"] == len(HALF)
    assert line["duration_ms"] >= 0
    gateway = front.gateway
    assert supervisor.rotate(gateway, largest=1, kept=2)
    front.ask("/predictions/tiny", **{"x-request-id": "logged-2"})
    until(lambda: [line["request_id"] for line in front.log()] == ["logged-2"], 20, "a new file")
    assert supervisor.rotate(gateway, largest=1, kept=2)
    until(lambda: supervisor.rotate(gateway, largest=0, kept=2), 20, "the file that Envoy opens anew")
    names = {"access.log", "access.log.1", "access.log.2"}
    folder = gateway.files.access_log.parent
    until(lambda: {path.name for path in folder.glob("access.log*")} == names, 20, "three files")


def test_numbers_for_prometheus_and_nothing_else(front: Front) -> None:
    name = 'envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name="tiny~1%2E0",le="'
    front.ask("/predictions/tiny")

    def limits() -> list[str]:
        page = requests.get(f"{front.metrics}/metrics", timeout=10).text
        return [line.removeprefix(name).partition('"')[0] for line in page.splitlines() if line.startswith(name)]

    first, *_, last, beyond = until(limits, 10, "a histogram, which Envoy tells a while later")
    assert (first, last, beyond) == ("1", "60000", "+Inf")
    assert requests.get(f"{front.metrics}/config_dump", timeout=10).status_code == 404
    assert requests.post(f"{front.metrics}/quitquitquit", timeout=10).status_code == 404


def test_a_killed_supervisor_drops_nothing_and_a_killed_envoy_comes_back(front: Front) -> None:
    os.kill(front.pid("keeper"), signal.SIGKILL)
    until(lambda: not is_alive(front.pid("keeper")), 20, "the supervisor's end")
    assert front.ask("/predictions/tiny").status_code == 200
    for command in (("status",), ("status", "--json"), ("gateway", "status")):
        assert "the gateway: its supervisor does not run" in front.site.run(*command, status=5).err
    front.site.run("gateway", "start")
    front.site.run("status")
    old = front.pid("envoy")
    os.kill(old, signal.SIGKILL)
    until(lambda: front.pid("envoy") != old and front.gateway.admin.is_live(), 20, "another Envoy")
    assert front.ask("/predictions/tiny").status_code == 200
    assert front.site.run("gateway", "status").out.startswith("gateway: ready")


def test_a_node_that_starts_anew_is_asked_with_its_new_token(front: Front) -> None:
    front.site.run("node", "stop")
    until(lambda: front.ask("/predictions/tiny").status_code == 503, 10, "no node")
    front.site.run("node", "start")
    until(lambda: front.ask("/predictions/tiny").status_code == 200, 10, "the node with its new token")
    until(front.all_answer, 10, "every version")


def test_weights_change_under_load_and_nothing_fails(front: Front) -> None:
    with under_load(front.address("/predictions/tiny"), HALF, 4) as load:
        for share in range(0, 5000, 500):
            change.set_weights(front.gateway, "tiny", {"1.0": 10_000 - share, "2.0": share})
        change.set_weights(front.gateway, "tiny", {"1.0": 10_000})
    assert load.failed == []


def test_clusters_change_under_load_and_nothing_fails(front: Front) -> None:
    gateway = front.gateway
    with changing(gateway), under_load(front.address("/predictions/tiny"), HALF, 4) as load:
        upstreams, traffic = upstreams_written(gateway), traffic_in_force(gateway).values()
        for _ in range(3):
            put_clusters(gateway, [replace(upstream, probe=None) for upstream in upstreams], traffic)
            put_clusters(gateway, upstreams, traffic)
    assert load.failed == []


def test_tls_with_a_certificate_that_is_replaced(site: Site) -> None:
    write_tiny(site, "tiny", {"1.0": {}})
    site.deploy({"tiny": {"default": "1.0", "versions": {"1.0": {"workers": 1}}}})
    certificate(site.root / "tls", "first")
    base, metrics = with_gateway(site, {}, tls={"certificate": "tls/server.pem", "key": "tls/server.key"})
    site.run("up")
    headers = {"Content-Type": "application/json", "x-api-key": front_of(site, base, metrics).key}
    ca = str(site.root / "tls" / "server.pem")
    assert requests.post(f"{base}/predictions/tiny", data=HALF, headers=headers, verify=ca, timeout=10).ok
    trusted = grpc.ssl_channel_credentials((site.root / "tls" / "server.pem").read_bytes())
    with grpc.secure_channel(base.removeprefix("https://"), trusted) as channel:
        ask = channel.unary_unary(f"/{GRPC_SERVICE}/ModelReady")
        message = pb.ModelReadyRequest(name="tiny").SerializeToString()
        key = [("x-api-key", headers["x-api-key"])]
        until(lambda: pb.ModelReadyResponse.FromString(ask(message, timeout=10, metadata=key)).ready, 10, "tiny ready")
    host, _, port = base.removeprefix("https://").partition(":")

    def shown() -> str:
        pem = ssl.get_server_certificate((host, int(port)))
        return pem.strip()

    first = shown()
    certificate(site.root / "new", "second")
    for name in ("server.pem", "server.key"):  # in place, and one after the other
        shutil.copyfile(site.root / "new" / name, site.root / "tls" / name)
    until(lambda: shown() != first, 10, "the new certificate")
    assert requests.post(f"{base}/predictions/tiny", data=HALF, headers=headers, verify=ca, timeout=10).ok
