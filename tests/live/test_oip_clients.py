"""The Open Inference Protocol as other projects' clients speak it: the same cases for each client, before our own
server, and before the gateway with a node of each engine behind it. The answers are those that docs/oip.md says, and
those of a stock Triton are what the page says of Triton.

The gateway has a model for each engine, which is that engine's name. KServe's client and a stock Triton are asked in
tests/engines (`make test-engines`): their environments would take half of the time here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, cast

import grpc
import numpy as np
import pytest
import requests
import yaml

from benchmarks import ARCHIVES
from benchmarks.protocol.questions import EXPECTED, FAILING, QUESTIONS, SAMPLES, answers
from benchmarks.protocol.servers import INPUTS, MODEL, Place
from benchmarks.protocol.table import read_equal, read_rows
from handlers.contract import GRPC_SERVICE, SERVER_VERSION
from tests.live.test_serve import served
from tests.support.engines import give_engine
from tests.support.gateways import brought_up, with_gateway
from tests.support.oip_clients import Client, Inputs, Knowing, Refused, make_client
from tests.support.ports import free_ports
from tests.support.sites import CHECKOUT, Site, make_site, until
from tsctl.compare.nodes import free_spec
from tsctl.gateway.headers import ENGINE_HEADER, KEY_HEADER
from tsctl.nodes.environments import ENGINES as WITH_ENVIRONMENTS

ENGINES = ("torchserve", "uvicorn", "triton", "bentoml")
ALONE = "serve"
PLACES = (ALONE, *ENGINES)
KNOWING = ("plain", "triton-json", "triton-mixed", "triton-binary", "triton-grpc")
#: They name no versions, and read reasons only of the media type application/json.
KSERVE_REST = ("kserve-rest", "kserve-rest-binary")
VERSION = "1.0"
DTYPES = {"FP64": np.float32, "INT64": np.int64, "BOOL": np.bool_, "BYTES": np.object_}


def put_archive(site: Site, model: str) -> None:
    """The archive that the servers are compared with, as a model of this name."""
    folder = site.root / "archives" / model
    shutil.copytree(ARCHIVES / MODEL, folder)
    spec = yaml.safe_load((folder / "archive.yaml").read_text())
    (folder / "archive.yaml").write_text(yaml.safe_dump({**spec, "model": model}))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = make_site(tmp_path_factory.mktemp("oip") / "site")
    content = made.deployment
    content["nodes"] = {engine: free_spec(engine).model_dump(mode="json") for engine in ENGINES}
    content["models"] = {
        engine: {"default": VERSION, "versions": {VERSION: {"nodes": [engine], "workers": 1}}} for engine in ENGINES
    }
    (made.root / "deployment.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    for engine in ENGINES:
        put_archive(made, engine)
        if engine in WITH_ENVIRONMENTS:
            give_engine(made, engine)
    return made


@pytest.fixture(scope="module")
def places(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Place]]:
    base, metrics = with_gateway(site, {}, engine_header=True)
    [port] = free_ports(1)
    alone = make_site(tmp_path_factory.mktemp("alone") / "site")
    put_archive(alone, MODEL)
    with (
        brought_up(site, base, metrics) as front,
        served(alone, MODEL, "--grpc-port", str(port)) as server,
    ):
        until(
            lambda: requests.get(f"{base}/v2/health/ready", timeout=5).status_code == 200, 20, "all engines are ready"
        )
        address = base.removeprefix("http://")
        yield {
            ALONE: Place(server.url.removeprefix("http://"), f"127.0.0.1:{port}", MODEL, VERSION),
            **{engine: Place(address, address, engine, VERSION, {KEY_HEADER: front.key}) for engine in ENGINES},
        }


@pytest.fixture(scope="module")
def clients(places: dict[str, Place]) -> Iterator[dict[tuple[str, str], Client]]:
    """Every client of every place, and each of them with a wrong key as of the place `wrong`."""
    wrong = replace(places["uvicorn"], headers={KEY_HEADER: "wrong"})
    with ExitStack() as stack:
        made: dict[tuple[str, str], Client] = {}
        for (at, place), name in ((pair, name) for pair in {**places, "wrong": wrong}.items() for name in KNOWING):
            made[at, name] = client = make_client(name, place)
            stack.callback(client.close)
        yield made


def inputs_of(rows: list[dict[str, Any]]) -> Inputs:
    """The inputs for some rows, each as an array with a row for each."""
    return {
        name: np.array([row[name] for row in rows], DTYPES[datatype]).reshape(len(rows), size)
        for name, (datatype, size) in INPUTS.items()
    }


ROWS = inputs_of(SAMPLES)
of_each_client = pytest.mark.parametrize("name", KNOWING)
of_each_place = pytest.mark.parametrize("place", PLACES)


@of_each_place
@of_each_client
def test_rows_are_answered(
    places: dict[str, Place], clients: dict[tuple[str, str], Client], place: str, name: str
) -> None:
    for version in ("",) if name in KSERVE_REST else ("", VERSION):
        outputs = clients[place, name].infer(places[place].model, ROWS, version)
        outputs["lengths"] = [json.loads(text) for text in outputs["lengths"]]
        assert outputs == EXPECTED
        assert [type(value) for value in outputs["next"] + outputs["is_off"]] == [int] * 2 + [bool] * 2


@of_each_place
@of_each_client
def test_server_and_model_are_live_and_ready(
    places: dict[str, Place], clients: dict[tuple[str, str], Client], place: str, name: str
) -> None:
    client = clients[place, name]
    assert client.live() and client.ready() and client.model_ready(places[place].model)
    assert not is_ready(client, "nothing")


def is_ready(client: Client, model: str) -> bool:
    """Whether the model is ready; a client may raise that it is not there, or cannot answer."""
    try:
        return client.model_ready(model)
    except Refused as refused:
        assert refused.code in ("NOT_FOUND", "UNAVAILABLE"), refused
        return False


@of_each_place
@of_each_client
def test_mistakes_have_the_same_code_and_say_what_is_wrong(
    places: dict[str, Place], clients: dict[tuple[str, str], Client], place: str, name: str
) -> None:
    client, model = clients[place, name], places[place].model
    numbers, text = ROWS["numbers"], ROWS["text"]
    cases: list[tuple[str, Inputs, str, str]] = [
        (model, {**ROWS, "numbers": numbers[:, :2]}, "INVALID_ARGUMENT", "Row 0: numbers"),
        (model, {**ROWS, "numbers": text}, "INVALID_ARGUMENT", "Row 0: numbers.0: "),
        (model, {**ROWS, "count": numbers[:, 0]}, "INVALID_ARGUMENT", "Row 0: count: "),
        (model, {**ROWS, "pears": numbers}, "INVALID_ARGUMENT", "Row 0: pears"),
        (model, {"numbers": numbers}, "INVALID_ARGUMENT", "Row 0: "),
        (model, inputs_of(SAMPLES * 3), "RESOURCE_EXHAUSTED", "has 6 rows; at most 4 may come"),
        (model, inputs_of([*SAMPLES, {**SAMPLES[0], "text": FAILING}]), "INTERNAL", "Row 2: "),
        ("nothing", ROWS, "NOT_FOUND", ""),
    ]
    for asked, inputs, code, message in cases:
        with pytest.raises(Refused) as raised:
            client.infer(asked, inputs)
        assert raised.value.code == code, raised.value
        if name not in KSERVE_REST:
            assert message in raised.value.message
    assert client.infer(model, ROWS)["upper"] == EXPECTED["upper"], "nothing of it is left behind"


@of_each_place
def test_metadata_and_index_are_the_same_for_all_clients_and_everywhere(
    places: dict[str, Place], clients: dict[tuple[str, str], Client], place: str
) -> None:
    model = places[place].model
    names = [model] if place == ALONE else sorted(ENGINES)
    for name in KNOWING:
        client = cast(Knowing, clients[place, name])
        assert client.server_metadata() == {
            "name": "tsctl",
            "version": SERVER_VERSION,
            "extensions": ["binary_tensor_data", "model_repository_index"],
        }
        for version in ("", VERSION):
            assert client.model_metadata(model, version) == {
                "name": model,
                "versions": [VERSION],
                "platform": "pytorch",
                "inputs": [
                    {"name": "numbers", "datatype": "FP64", "shape": [-1, 3]},
                    {"name": "count", "datatype": "INT64", "shape": [-1]},
                    {"name": "is_on", "datatype": "BOOL", "shape": [-1]},
                    {"name": "text", "datatype": "BYTES", "shape": [-1]},
                ],
                "outputs": [
                    {"name": "total", "datatype": "FP64", "shape": [-1]},
                    {"name": "doubled", "datatype": "FP64", "shape": [-1, 3]},
                    {"name": "next", "datatype": "INT64", "shape": [-1]},
                    {"name": "is_off", "datatype": "BOOL", "shape": [-1]},
                    {"name": "upper", "datatype": "BYTES", "shape": [-1]},
                    {"name": "lengths", "datatype": "BYTES", "shape": [-1]},
                ],
            }
        index = sorted(client.index(), key=lambda entry: str(entry["name"]))
        assert index == [{"name": each, "version": VERSION, "state": "READY", "reason": ""} for each in names]
        with pytest.raises(Refused) as raised:
            client.model_metadata("nothing")
        assert raised.value.code == "NOT_FOUND"


@of_each_place
def test_a_version_and_only_a_known_one_can_be_named(
    places: dict[str, Place], clients: dict[tuple[str, str], Client], place: str
) -> None:
    model = places[place].model
    for name in KNOWING:
        client = cast(Knowing, clients[place, name])
        assert client.model_ready(model, VERSION)
        asked: list[Callable[[], Any]] = [
            partial(client.infer, model, ROWS, "9.9"),
            partial(client.model_metadata, model, "9.9"),
        ]
        if name in ("plain", "triton-grpc"):
            asked.append(partial(client.model_ready, model, "9.9"))
        else:  # over HTTP, tritonclient makes False of every error
            assert not client.model_ready(model, "9.9")
        for ask in asked:
            with pytest.raises(Refused) as raised:
                ask()
            assert raised.value.code == "NOT_FOUND"


@pytest.mark.parametrize("engine", ENGINES)
def test_it_is_the_engine_that_answers(places: dict[str, Place], engine: str) -> None:
    place = places[engine]
    tensors = [
        {"name": name, "shape": [1, size], "datatype": datatype, "data": np.ravel([SAMPLES[0][name]]).tolist()}
        for name, (datatype, size) in INPUTS.items()
    ]
    for path in ("/infer", f"/versions/{VERSION}/infer"):
        url = f"http://{place.rest}/v2/models/{engine}{path}"
        answer = requests.post(url, json={"inputs": tensors}, headers=place.headers, timeout=10)
        assert (answer.status_code, answer.headers[ENGINE_HEADER]) == (200, engine)
        assert answer.json()["model_version"] == VERSION


@of_each_client
def test_the_gateway_asks_every_client_for_a_key_but_for_the_servers_health(
    clients: dict[tuple[str, str], Client], name: str
) -> None:
    client = clients["wrong", name]
    assert client.live() and client.ready()
    for engine in ENGINES:
        with pytest.raises(Refused) as raised:
            client.infer(engine, ROWS)
        assert raised.value.code == "UNAUTHENTICATED"


# ---- beside other servers --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def documented() -> str:
    """What docs/oip.md says of other servers."""
    page = (CHECKOUT / "docs" / "oip.md").read_text()
    return page.partition("\n## Beside Triton and MLServer\n")[2].partition("\n## ")[0]


@of_each_place
def test_answers_are_those_of_the_documentation(places: dict[str, Place], documented: str, place: str) -> None:
    rows, equal = read_rows(documented), read_equal(documented)
    assert {*rows, *equal} == set(QUESTIONS)
    said = answers(places[place])
    assert {title: said[title] for title in rows} == {title: cells["here"] for title, cells in rows.items()}


# ---- gRPC by hand ----------------------------------------------------------------------------------------------------


def named(place: Place) -> bytes:
    """The begin of a message: the model's name."""
    return b"\x0a" + bytes([len(place.model)]) + place.model.encode()


def call(place: Place, method: str, message: bytes = b"", **more: Any) -> tuple[str, Any]:
    """Status and message of one call, or its answer."""
    with grpc.insecure_channel(place.grpc) as channel:
        ask = channel.unary_unary(
            f"/{method}", request_serializer=lambda sent: sent, response_deserializer=lambda got: got
        )
        try:
            return "OK", ask(message, timeout=10, metadata=list(place.headers.items()), **more)
        except grpc.RpcError as error:
            return error.code().name, error.details()


@of_each_place
def test_other_methods_are_unimplemented(places: dict[str, Place], place: str) -> None:
    for method in (
        "ModelConfig", "ModelStatistics", "RepositoryModelLoad", "RepositoryModelUnload", "SystemSharedMemoryRegister",
        "TraceSetting", "LogSettings", "ModelStreamInfer", "Nothing",
    ):  # fmt: skip
        assert call(places[place], f"{GRPC_SERVICE}/{method}")[0] == "UNIMPLEMENTED", method
    for method in ("grpc.health.v1.Health/Check", "inference.Other/ModelInfer", "predictions/digits"):
        assert call(places[place], method)[0] == "UNIMPLEMENTED", method


@of_each_place
def test_a_stream_of_infer_requests_is_unimplemented_at_once(places: dict[str, Place], place: str) -> None:
    with grpc.insecure_channel(places[place].grpc) as channel:
        stream = channel.stream_stream(f"/{GRPC_SERVICE}/ModelStreamInfer")
        endless = iter(lambda: b"x" * 1000, b"")  # the client never says that this was all
        with pytest.raises(grpc.RpcError) as raised:
            list(stream(endless, timeout=10, metadata=list(places[place].headers.items())))
    assert raised.value.code().name == "UNIMPLEMENTED"


@of_each_place
def test_bytes_that_are_no_message_are_refused(places: dict[str, Place], place: str) -> None:
    infer = f"{GRPC_SERVICE}/ModelInfer"
    known = named(places[place])
    for message, code in (
        (b"", ("INVALID_ARGUMENT", "NOT_FOUND")),
        (b"\xff\xff", ("INVALID_ARGUMENT",)),
        (known + b"\xff", ("INVALID_ARGUMENT",)),
        (known + b"\x2a\x7f", ("INVALID_ARGUMENT",)),
        (b"\x0a\x0e../../../models", ("INVALID_ARGUMENT", "NOT_FOUND")),
        (b"\x0a\x03a b", ("NOT_FOUND",)),
        (known + b"\x12\x039.9", ("NOT_FOUND",)),
        (known + b"\x3a\x80\x80\x80\x08", ("INVALID_ARGUMENT",)),  # 16 MiB are announced
    ):
        assert call(places[place], infer, message)[0] in code, message


@of_each_place
def test_a_deadline_of_the_client_is_the_workers(places: dict[str, Place], place: str) -> None:
    with grpc.insecure_channel(places[place].grpc) as channel:
        ask = channel.unary_unary(f"/{GRPC_SERVICE}/ModelInfer")
        metadata = [*places[place].headers.items(), ("x-request-timeout-ms", "0")]
        with pytest.raises(grpc.RpcError) as raised:
            ask(named(places[place]), timeout=10, metadata=metadata)
    assert raised.value.code().name in ("DEADLINE_EXCEEDED", "INVALID_ARGUMENT")


def test_a_compressed_message_is_read_by_our_server_and_refused_by_the_gateway(places: dict[str, Place]) -> None:
    said = {
        name: call(
            place,
            f"{GRPC_SERVICE}/ModelInfer",
            named(place) + b"\x1a\x40" + b"a" * 64,
            compression=grpc.Compression.Gzip,
        )
        for name, place in places.items()
    }
    code, message = said.pop(ALONE)
    assert code == "INVALID_ARGUMENT" and "inputs" in message
    assert set(said.values()) == {("UNIMPLEMENTED", "Compressed messages are not read here; send them as they are.")}


def test_every_method_but_the_servers_health_needs_a_key(places: dict[str, Place]) -> None:
    for key in ("", "wrong"):
        place = replace(places["triton"], headers={KEY_HEADER: key})
        for method in ("ModelInfer", "ModelMetadata", "ModelReady", "ServerMetadata", "RepositoryIndex"):
            assert call(place, f"{GRPC_SERVICE}/{method}", named(place))[0] == "UNAUTHENTICATED", method
        for method in ("ServerLive", "ServerReady"):
            assert call(place, f"{GRPC_SERVICE}/{method}") == ("OK", b"\x08\x01")
        for http_method, path in (
            ("GET", "/v2"),
            ("GET", f"/v2/models/{place.model}"),
            ("POST", "/v2/repository/index"),
        ):
            answer = requests.request(http_method, f"http://{place.rest}{path}", headers=place.headers, timeout=10)
            assert answer.status_code == 401


# ---- last, because it ends the nodes ---------------------------------------------------------------------------------


def test_without_their_nodes_models_are_there_and_not_ready(
    site: Site, places: dict[str, Place], clients: dict[tuple[str, str], Client]
) -> None:
    with ThreadPoolExecutor(len(ENGINES)) as pool:
        list(pool.map(lambda engine: site.run("node", "stop", "--node", engine), ENGINES))
    index = cast(Knowing, clients["uvicorn", "plain"]).index
    until(lambda: {entry["state"] for entry in index()} == {"UNAVAILABLE"}, 20, "the gateway notices")
    for engine in ENGINES:
        for client in (client for (at, _), client in clients.items() if at == engine):
            assert client.live()
            assert not is_ready(client, engine)
            with pytest.raises(Refused) as raised:
                client.infer(engine, ROWS)
            assert raised.value.code == "UNAVAILABLE", (engine, client)
