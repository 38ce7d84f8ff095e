"""TorchServe's own gRPC service through the gateway, before real nodes: a stock archive on TorchServe, a release from
TorchServe to our own server, and a language model, asked by grpcio's client."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator

import pytest
import requests
import yaml

from tests.live.test_rollout_stock import archived
from tests.support import paced
from tests.support.gateways import Front, brought_up, with_gateway
from tests.support.ports import free_ports
from tests.support.sites import HALF, make_site, until, write_tiny
from tests.support.torchserve_grpc import Client, client, finish
from tsctl.gateway.counters import REQUESTS, parse_page

#: Finds its inputs by their names, as TorchServe's gRPC gives them; and answers in parts.
HANDLER = """
import json

from ts.handler_utils.utils import send_intermediate_predict_response


def handle(data, context):
    if data is None:
        return None
    row = data[0]
    if "ticks" not in row:
        return [json.dumps({name: [type(value).__name__, len(value)] for name, value in sorted(row.items())})]
    ticks = [f"tick {number};" for number in range(int(bytes(row["ticks"])))]
    for tick in ticks[:-1]:
        send_intermediate_predict_response([tick], context.request_ids, "success", 200, context)
    return [ticks[-1]]
"""


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("tsgrpc")
    site = make_site(folder / "site")
    write_tiny(site, "tiny", {"1.0": {"factor": 2.0}, "2.0": {"factor": 3.0}})
    paced.write_archive(site.root)
    (folder / "stock").mkdir()
    site.run("archive", "import", str(archived(folder / "stock", "1.0", HANDLER)))
    content = site.deployment
    content["nodes"]["own"] = {"engine": "uvicorn", "address": f"http://127.0.0.1:{free_ports(1)[0]}"}
    content["models"] = {
        "stock": {"default": "1.0", "versions": {"1.0": {"workers": 1, "nodes": ["local"]}}},
        "toy": {"default": "1.0", "versions": {"1.0": {"workers": 1, "nodes": ["own"]}}},
        "tiny": {
            "default": "1.0",
            "versions": {"1.0": {"workers": 1, "nodes": ["local"]}, "2.0": {"workers": 1, "nodes": ["own"]}},
        },
    }
    (site.root / "deployment.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    base, metrics = with_gateway(site, {"sticky": {"header": "x-user-id"}})
    with brought_up(site, base, metrics) as running:
        running.site.run("weights", "set", "tiny", "1.0=75%", "2.0=25%")
        yield running


@pytest.fixture(scope="module")
def caller(front: Front) -> Iterator[Client]:
    with client(front.base, x_api_key=front.key) as made:
        until(lambda: made.ping().json() == {"status": "Healthy"}, 30, "every version is ready")
        yield made


def counted(front: Front, model: str) -> Counter[tuple[str, str, str]]:
    """Requests by version, how it was chosen, and status, as rollouts read them."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for sample in parse_page(requests.get(f"{front.metrics}/metrics", timeout=10).text):
        if sample.name == REQUESTS and sample.labels["model"] == model:
            counts[sample.labels["version"], sample.labels["by"], sample.labels["status"]] += sample.value
    return counts


def test_weights_tracks_pins_and_users_are_those_of_rest(front: Front, caller: Client) -> None:
    before = counted(front, "tiny")
    said = [caller.predict("tiny", {"data": HALF}, x_user_id=f"user-{n}") for n in range(80)]
    versions = Counter(one.headers["x-model-version"] for one in said)
    assert {one.code for one in said} == {"OK"}
    assert all(one.json() == {"y": 1.0 if one.headers["x-model-version"] == "1.0" else 1.5} for one in said)
    assert versions["1.0"] > versions["2.0"] > 0
    of_rest = [front.ask("/predictions/tiny", **{"x-user-id": f"user-{n}"}) for n in range(80)]
    assert [one.headers["x-model-version"] for one in of_rest] == [one.headers["x-model-version"] for one in said]
    assert caller.predict("tiny", {"body": HALF}, x_track="canary").json() == {"y": 1.5}
    assert caller.predict("tiny", {"body": HALF}, "2.0").json() == {"y": 1.5}
    until(lambda: (counted(front, "tiny") - before).total() >= 162, 20, "the counters")
    added = counted(front, "tiny") - before
    assert {key: added[key] for key in added if key[1] == "weight"} == {
        (version, "weight", "200"): 2 * versions[version] for version in ("1.0", "2.0")
    }
    assert (added["2.0", "header", "200"], added["2.0", "path", "200"]) == (1, 1)


def test_errors_of_handlers_have_their_code_on_every_engine(caller: Client) -> None:
    for version in ("1.0", "2.0"):
        said = caller.predict("tiny", {"data": b"no json"}, version)
        assert (said.code, said.headers["x-model-version"]) == ("INVALID_ARGUMENT", version)
        said = caller.predict("tiny", {}, version)
        assert (said.code, said.details) == ("INVALID_ARGUMENT", "The request has no body.")
        wanted = {"1.0": ("INVALID_ARGUMENT", "The form has 2 fields"), "2.0": ("UNIMPLEMENTED", "multipart/form-data")}
        said = caller.predict("tiny", {"a": HALF, "b": HALF}, version)
        assert said.code == wanted[version][0]
        assert wanted[version][1] in said.details
    assert caller.predict("nothing", {"data": HALF}).code == "NOT_FOUND"


def test_a_budget_is_that_of_rest(front: Front) -> None:
    key = front.site.run("keys", "add", "frugal", "--requests-per-s", "1", "--burst", "2").out.strip()
    with client(front.base, x_api_key=key) as frugal:
        until(lambda: frugal.predict("tiny", {"data": HALF}).code == "OK", 20, "the key is known")
        said = [frugal.predict("tiny", {"data": HALF}) for _ in range(6)]
    assert {one.code for one in said} == {"OK", "RESOURCE_EXHAUSTED"}
    refused = next(one for one in said if one.code != "OK")
    assert int(refused.headers["retry-after"]) >= 1


def test_a_stock_handler_gets_its_inputs_by_their_names_and_answers_in_parts(caller: Client) -> None:
    picture = bytes(range(256)) * 8000
    for inputs in ({"data": picture}, {"body": b"\x00\xff"}, {"data": b"1", "size": b"22"}):
        expected = {name: ["bytearray", len(value)] for name, value in inputs.items()}
        assert caller.predict("stock", inputs).json() == expected
    said = caller.stream("stock", {"ticks": b"5"})
    assert (said.code, b"".join(said.answers)) == ("OK", b"".join(b"tick %d;" % n for n in range(5)))
    assert caller.predict("stock", {"ticks": b"5"}).answer == b"".join(said.answers)


def test_a_language_model_streams_its_events(front: Front, caller: Client) -> None:
    asked = {"prompt": "ab", "max_tokens": 20, "temperature": 0}
    whole = caller.predict("toy", {"data": json.dumps(asked).encode()})
    assert whole.json()["choices"][0]["text"] == "ab" * 10
    call = caller.begin_stream("toy", {"data": json.dumps({**asked, "stream": True}).encode()})
    first = next(call).prediction
    said = finish(call)
    events = [first, *said.answers]
    assert (said.code, events[-1]) == ("OK", b"data: [DONE]\n\n")
    pieces = [json.loads(event[6:]) for event in events if event.startswith(b"data: {")]
    assert "".join(piece["choices"][0]["text"] for piece in pieces if piece["choices"]) == "ab" * 10
    until(lambda: sum(line["model"] == "toy" for line in front.log()) >= 2, 20, "the lines of the log")
    lines = [line for line in front.log() if line["model"] == "toy"]
    assert [(line["tokens_in"], line["tokens_out"], line["finish"]) for line in lines[:2]] == [(2, 20, "length")] * 2


def test_a_stream_whose_worker_is_killed_says_so(front: Front, caller: Client) -> None:
    asked = {"prompt": "ab", "max_tokens": paced.ENDLESS, "temperature": 0, "stream": True}
    call = caller.begin_stream("toy", {"data": json.dumps(asked).encode()}, timeout_s=60)
    first = next(call).prediction
    [node] = [node for node in front.gateway.nodes() if node.name == "own"]
    [worker] = node.require_version("toy", "1.0").pids
    os.kill(worker, signal.SIGKILL)
    said = finish(call)
    assert said.code == "INTERNAL"
    assert all(answer.startswith(b"data: {") for answer in (first, *said.answers)), "no end that looks like one"
    assert said.details


def test_the_client_of_torchserves_documentation_does(front: Front) -> None:
    """Its metadata has a name with an underscore, and its key is a bearer token."""
    with client(front.base, authorization=f"Bearer {front.key}", protocol="gRPC") as documented:
        assert documented.predict("tiny", {"data": HALF}, "1.0").json() == {"y": 1.0}
