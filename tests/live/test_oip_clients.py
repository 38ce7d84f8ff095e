"""The Open Inference Protocol as other projects' clients speak it: the same cases for each client, before our own
server and before the gateway with a TorchServe node behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, cast

import grpc
import numpy as np
import pytest
import requests

from handlers.contract import GRPC_SERVICE, SERVER_VERSION
from tests.live.test_serve import served
from tests.support.gateways import brought_up, with_gateway
from tests.support.oip_clients import Client, Knowing, Kserve, Place, Plain, Refused, Triton, kserve_process
from tests.support.sites import Site, copy_archives, make_site
from tsctl.host.ports import free_ports

PLACES = ("uvicorn", "gateway")
KNOWING = ("plain", "triton-json", "triton-binary", "triton-grpc")
CLIENTS = (*KNOWING, "kserve-rest", "kserve-rest-binary", "kserve-grpc")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = make_site(tmp_path_factory.mktemp("oip") / "site")
    copy_archives(made, "digits")
    made.deploy({"digits": {"default": "1.0", "versions": {"1.0": {"workers": 1}}}})
    return made


@pytest.fixture(scope="module")
def places(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Place]]:
    base, metrics = with_gateway(site, {})
    [port] = free_ports(1)
    alone = make_site(tmp_path_factory.mktemp("alone") / "site")
    copy_archives(alone, "digits")
    with (
        brought_up(site, base, metrics) as front,
        served(alone, "digits", "--grpc-port", str(port)) as server,
    ):
        address = base.removeprefix("http://")
        yield {
            "uvicorn": Place(server.url.removeprefix("http://"), f"127.0.0.1:{port}", ""),
            "gateway": Place(address, address, front.key),
        }


@pytest.fixture(scope="module")
def clients(places: dict[str, Place]) -> Iterator[dict[tuple[str, str], Client]]:
    """Every client of every place."""
    with ExitStack() as stack:
        made: dict[tuple[str, str], Client] = {}
        process = stack.enter_context(kserve_process())
        for name, place in places.items():
            made[name, "plain"] = Plain(place)
            for kind in ("json", "binary", "grpc"):
                made[name, f"triton-{kind}"] = client = Triton(place, kind)
                stack.callback(client.close)
            for kind in ("rest", "rest-binary", "grpc"):
                made[name, f"kserve-{kind}"] = Kserve(process, place, kind)
        yield made


@pytest.fixture(scope="module")
def pictures(site: Site) -> tuple[np.ndarray, list[str]]:
    """Three samples in one tensor, and their labels."""
    folder = site.root / "archives" / "digits"
    golden = json.loads((folder / "golden" / "1.0.json").read_text())
    names = [name for name in sorted(golden) if name.endswith(".json")][:3]
    samples = [json.loads((folder / "samples" / name).read_text())["pixels"] for name in names]
    return np.array(samples, np.float32), [golden[name]["label"] for name in names]


of_each_client = pytest.mark.parametrize("name", CLIENTS)
of_each_place = pytest.mark.parametrize("place", PLACES)


@of_each_place
@of_each_client
def test_rows_are_answered(
    clients: dict[tuple[str, str], Client], pictures: tuple[np.ndarray, list[str]], place: str, name: str
) -> None:
    pixels, labels = pictures
    outputs = clients[place, name].infer("digits", {"pixels": pixels})
    assert outputs["label"] == labels
    best = [json.loads(text)[0] for text in outputs["top_k"]]
    assert [one["label"] for one in best] == labels


@of_each_place
@of_each_client
def test_server_and_model_are_live_and_ready(clients: dict[tuple[str, str], Client], place: str, name: str) -> None:
    client = clients[place, name]
    assert client.live() and client.ready() and client.model_ready("digits")


@of_each_place
@of_each_client
def test_mistakes_have_the_same_code_and_say_what_is_wrong(
    clients: dict[tuple[str, str], Client], pictures: tuple[np.ndarray, list[str]], place: str, name: str
) -> None:
    client, [pixels, _] = clients[place, name], pictures
    cases: list[tuple[str, dict[str, np.ndarray], str, str]] = [
        ("digits", {"pixels": pixels[:, :7]}, "INVALID_ARGUMENT", "Row 0: pixels"),
        ("digits", {"pixels": pixels - 99}, "INVALID_ARGUMENT", "Row 0: pixels.0.0: "),
        ("digits", {"pears": pixels}, "INVALID_ARGUMENT", "Row 0: "),
        ("digits", {"pixels": np.tile(pixels, (50, 1, 1))}, "RESOURCE_EXHAUSTED", "has 150 rows; at most 32 may come"),
        ("nothing", {"pixels": pixels}, "NOT_FOUND", ""),
    ]
    for model, inputs, code, message in cases:
        with pytest.raises(Refused) as raised:
            client.infer(model, inputs)
        assert raised.value.code == code, raised.value
        if not name.startswith("kserve-rest"):  # it shows the reason only of errors that call themselves plain JSON
            assert message in raised.value.message


@of_each_place
def test_metadata_and_index_are_the_same_for_all_clients_and_everywhere(
    clients: dict[tuple[str, str], Client], place: str
) -> None:
    for name in KNOWING:
        client = cast(Knowing, clients[place, name])
        assert client.server_metadata() == {
            "name": "tsctl",
            "version": SERVER_VERSION,
            "extensions": ["binary_tensor_data", "model_repository_index"],
        }
        assert client.model_metadata("digits") == {
            "name": "digits",
            "versions": ["1.0"],
            "platform": "pytorch",
            "inputs": [{"name": "pixels", "datatype": "FP64", "shape": [-1, 8, 8]}],
            "outputs": [
                {"name": "label", "datatype": "BYTES", "shape": [-1]},
                {"name": "probabilities", "datatype": "FP64", "shape": [-1, 10]},
                {"name": "top_k", "datatype": "BYTES", "shape": [-1]},
            ],
        }
        assert client.index() == [{"name": "digits", "version": "1.0", "state": "READY", "reason": ""}]
        with pytest.raises(Refused) as raised:
            client.model_metadata("nothing")
        assert raised.value.code == "NOT_FOUND"


def test_a_version_and_only_a_known_one_can_be_named(places: dict[str, Place]) -> None:
    for place in places.values():
        for version, status in (("1.0", 200), ("9.9", 404)):
            for path in ("", "/ready"):
                url = f"http://{place.rest}/v2/models/digits/versions/{version}{path}"
                answer = requests.get(url, headers={"x-api-key": place.key}, timeout=10)
                assert answer.status_code == status, (url, answer.text)


# ---- gRPC by hand ----------------------------------------------------------------------------------------------------


def call(place: Place, method: str, message: bytes = b"", **more: Any) -> tuple[str, Any]:
    """Status and message of one call, or its answer."""
    with grpc.insecure_channel(place.grpc) as channel:
        ask = channel.unary_unary(
            f"/{method}", request_serializer=lambda sent: sent, response_deserializer=lambda got: got
        )
        try:
            return "OK", ask(message, timeout=10, metadata=[("x-api-key", place.key)], **more)
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
            list(stream(endless, timeout=10, metadata=[("x-api-key", places[place].key)]))
    assert raised.value.code().name == "UNIMPLEMENTED"


@of_each_place
def test_bytes_that_are_no_message_are_refused(places: dict[str, Place], place: str) -> None:
    infer = f"{GRPC_SERVICE}/ModelInfer"
    digits = b"\x0a\x06digits"
    for message, code in (
        (b"", ("INVALID_ARGUMENT", "NOT_FOUND")),
        (b"\xff\xff", ("INVALID_ARGUMENT",)),
        (digits + b"\xff", ("INVALID_ARGUMENT",)),
        (digits + b"\x2a\x7f", ("INVALID_ARGUMENT",)),
        (b"\x0a\x0e../../../models", ("INVALID_ARGUMENT", "NOT_FOUND")),
        (b"\x0a\x03a b", ("NOT_FOUND",)),
        (b"\x0a\x06digits\x12\x039.9", ("NOT_FOUND",)),
        (digits + b"\x3a\x80\x80\x80\x08", ("INVALID_ARGUMENT",)),  # 16 MiB are announced
    ):
        assert call(places[place], infer, message)[0] in code, message


@of_each_place
def test_a_deadline_of_the_client_is_the_workers(places: dict[str, Place], place: str) -> None:
    with grpc.insecure_channel(places[place].grpc) as channel:
        ask = channel.unary_unary(f"/{GRPC_SERVICE}/ModelInfer")
        metadata = [("x-api-key", places[place].key), ("x-request-timeout-ms", "0")]
        with pytest.raises(grpc.RpcError) as raised:
            ask(b"\x0a\x06digits", timeout=10, metadata=metadata)
    assert raised.value.code().name in ("DEADLINE_EXCEEDED", "INVALID_ARGUMENT")


def test_a_compressed_message_is_read_by_our_server_and_refused_by_the_gateway(places: dict[str, Place]) -> None:
    message = b"\x0a\x06digits" + b"\x1a\x40" + b"a" * 64
    said = {
        name: call(place, f"{GRPC_SERVICE}/ModelInfer", message, compression=grpc.Compression.Gzip)
        for name, place in places.items()
    }
    assert said["uvicorn"][0] == "INVALID_ARGUMENT" and "inputs" in said["uvicorn"][1]
    assert said["gateway"] == ("UNIMPLEMENTED", "Compressed messages are not read here; send them as they are.")


def test_the_gateway_asks_for_a_key_but_for_the_servers_health(places: dict[str, Place]) -> None:
    for key in ("", "wrong"):
        place = Place(places["gateway"].rest, places["gateway"].grpc, key)
        for method in ("ModelInfer", "ModelMetadata", "ModelReady", "ServerMetadata", "RepositoryIndex"):
            assert call(place, f"{GRPC_SERVICE}/{method}", b"\x0a\x06digits")[0] == "UNAUTHENTICATED", method
        for method in ("ServerLive", "ServerReady"):
            assert call(place, f"{GRPC_SERVICE}/{method}") == ("OK", b"\x08\x01")
        for http_method, path in (("GET", "/v2"), ("GET", "/v2/models/digits"), ("POST", "/v2/repository/index")):
            answer = requests.request(http_method, f"http://{place.rest}{path}", headers={"x-api-key": key}, timeout=10)
            assert answer.status_code == 401
