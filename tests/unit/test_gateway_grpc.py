"""What Envoy is told of gRPC: who passes its filters, and which versions get forms. The bytes are tested live."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

from handlers.contract import GRPC_SERVICE
from tests.support.torchserve_grpc import PredictionResponse, PredictionsRequest
from tsctl.config.project import Project
from tsctl.gateway.envoy.render import grpc, worker_filters
from tsctl.gateway.envoy.render.clients import KEY_FILTER, Client
from tsctl.gateway.envoy.render.upstreams import Endpoint, Upstream
from tsctl.gateway.sync import is_stock

KEYS = [Client("alice", ("key-of-alice",))]
HERE = (Endpoint("a", "10.0.0.2", 8080, None),)
OTHERS = (*HERE, Endpoint("b", "10.0.0.3", 8080, None, engine="uvicorn"))


def named(filters: list[dict[str, Any]]) -> list[str]:
    return [entry["name"] for entry in filters]


def test_no_filter_of_grpc_is_on_but_on_its_routes() -> None:
    first, last = grpc.grpc_filters()
    assert all(entry["disabled"] is True for entry in (*first, *last))
    frames, trailers = named(last).index(grpc.FRAMES_FILTER), named(last).index(grpc.TRAILERS_FILTER)
    # what makes messages stands behind what adds trailers to them
    assert frames < named(last).index(grpc.ANSWER_FILTER)
    assert trailers < named(last).index(grpc.MESSAGES_FILTER)


def test_every_route_to_the_listener_inside_is_of_one_service_and_takes_its_marks_off() -> None:
    routes = [route for route in grpc.grpc_routes(KEYS) if "route" in route]
    assert len(routes) == 7
    for route in routes:
        filters, removed = route["typed_per_filter_config"], route["request_headers_to_remove"]
        is_ours = grpc.MESSAGES_FILTER in filters
        assert is_ours == (grpc.TRAILERS_FILTER in filters) != (grpc.FRAMES_FILTER in filters)
        assert "x-tsctl-grpc" in removed
        assert ("content-type" in removed) == is_ours
        added = {entry["header"]["key"]: entry["header"]["value"] for entry in route["request_headers_to_add"]}
        assert added["x-tsctl-inside"] == "1"
        assert added.get("content-type") == ("%REQ(x-tsctl-media)%" if is_ours else None)


def test_a_key_is_asked_for_but_by_the_questions_of_health() -> None:
    routes = grpc.grpc_routes(KEYS)
    open_ = [
        route["match"].get("path")
        for route in routes
        if "route" in route and "disabled" in route["typed_per_filter_config"][KEY_FILTER] and "grpc" in route["match"]
    ]
    assert set(open_) == {
        f"/{GRPC_SERVICE}/ServerLive", f"/{GRPC_SERVICE}/ServerReady", f"/{grpc.TORCHSERVE_SERVICE}/Ping",
    }  # fmt: skip
    sources = [
        (
            route["match"]["prefix"],
            [source["header"] for source in route["typed_per_filter_config"][KEY_FILTER]["key_sources"]],
        )
        for route in routes
        if "key_sources" in route["typed_per_filter_config"][KEY_FILTER]
    ]
    assert sources == [
        (f"/{GRPC_SERVICE}/", ["x-api-key"]),
        (f"/{grpc.TORCHSERVE_SERVICE}/", ["x-api-key", "authorization"]),
    ]


def test_only_clusters_of_stock_versions_make_forms() -> None:
    for is_stock_ in (False, True):
        upstream = Upstream("digits", "1.0", HERE, None, is_stock=is_stock_)
        for is_shadow in (False, True):
            filters = worker_filters.worker_filters(upstream, "/predictions/digits/1.0", 30.0, is_shadow)
            assert ("inputs" in named(filters)) == is_stock_
            assert named(filters)[-1] == "upstream_codec"


def test_a_version_is_stock_as_its_archive_says_and_else_as_before(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.store.mkdir(parents=True)
    of_ours, unread = Upstream("m", "1.0", HERE, None), Upstream("m", "1.0", HERE, None, is_stock=True)
    manifest = {"model": {"modelName": "m", "serializedFile": None, "handler": "h.py", "modelVersion": "1.0"}}
    for name, more in (("stock.mar", {}), ("ours.mar", {"MAR-INF/DIGESTS.json": "{}"})):
        with zipfile.ZipFile(project.store / name, "w") as archive:
            archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
            for path, content in more.items():
                archive.writestr(path, content)
    (project.store / "broken.mar").write_bytes(os.urandom(64))
    assert is_stock(project, "stock.mar", OTHERS, of_ours)
    assert not is_stock(project, "ours.mar", HERE, unread)
    for archive_ in (None, "missing.mar", "broken.mar"):
        assert not is_stock(project, archive_, HERE, of_ours)
        assert is_stock(project, archive_, HERE, unread)
        assert is_stock(project, archive_, HERE, None)
        assert not is_stock(project, archive_, OTHERS, None)


def test_the_tests_messages_are_torchserves() -> None:
    request = PredictionsRequest(model_name="m", model_version="1", input={"data": b"\xff"}, sequence_id="s")
    entry = b"\x0a\x04data\x12\x01\xff"
    assert request.SerializeToString() == b"\x0a\x01m\x12\x011\x1a" + bytes([len(entry)]) + entry + b"\x22\x01s"
    assert PredictionResponse.FromString(b"\x0a\x02ok").prediction == b"ok"
