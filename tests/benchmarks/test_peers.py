"""The peers of `make bench-engines`: what they read and answer, how they are asked, and the figures."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.peers.contenders import Model, Peer, PeerContender, bentoml, fastapi, mlserver, triton
from benchmarks.peers.peers import BENTOML, ENVIRONMENTS, FASTAPI, LITSERVE, MLSERVER, TRITON
from benchmarks.peers.servers.tasks import Task, read_task, write_task
from benchmarks.peers.stock import NAME as STOCK
from benchmarks.workloads.engines import CASES, bodies_of, figures_of, workloads, write_traffic
from tests.support.comparisons import SETTING, engine, turn
from tests.support.sites import CHECKOUT
from tsctl.compare.load.figures import OverloadFigures
from tsctl.compare.nodes import engines
from tsctl.compare.recorded import RecordedRequest, read_requests
from tsctl.compare.result import Bare, Comparison, Measured
from tsctl.config.archive import read_archive_spec
from tsctl.errors import NodeError
from tsctl.nodes.observed import Reply

LINEAR = Task("handler", {})
TEXT = Task("handlers.embedding", {})
DIGITS = Task("handlers.image", {"height": 8, "width": 8, "labels": list("0123456789"), "top_k": 2})
CANCER = Task("handlers.tabular", {"features": ["a", "b"], "labels": ["benign", "malignant"], "threshold": 0.5})


def model(task: Task) -> Model:
    return Model(Path("/unpacked"), task, 32, 1)


def request(content: object) -> RecordedRequest:
    return RecordedRequest("line 1", json.dumps(content).encode(), "application/json")


@pytest.mark.parametrize(
    ("task", "content", "feature", "numbers", "answer"),
    [
        (LINEAR, {"row": [1.0, 2.0]}, [1.0, 2.0], [3.0], {"scores": [3.0]}),
        (TEXT, {"text": "hello"}, "hello", [0.1, 0.2], {"embeddings": [[0.1, 0.2]]}),
        (CANCER, {"b": 2.0, "a": 1.0}, [1.0, 2.0], [0.25], {"label": "benign", "probability": 0.25}),
        (CANCER, {"b": 2.0, "a": 1.0}, [1.0, 2.0], [0.5], {"label": "malignant", "probability": 0.5}),
        (
            replace(DIGITS, settings={**DIGITS.settings, "labels": ["0", "1", "2"]}),
            {"pixels": [[1, 2]]},
            [[1, 2]],
            [0.2, 0.7, 0.1],
            {
                "label": "1",
                "probabilities": [0.2, 0.7, 0.1],
                "top_k": [{"label": "1", "probability": 0.7}, {"label": "0", "probability": 0.2}],
            },
        ),
    ],
)
def test_a_task_reads_and_answers_as_the_archives_handler(
    task: Task,
    content: dict[str, object],
    feature: object,
    numbers: list[float],
    answer: dict[str, object],
    tmp_path: Path,
) -> None:
    write_task(tmp_path, task)
    assert read_task(tmp_path) == task
    assert task.feature(content) == feature
    assert task.answer(numbers) == answer


@pytest.mark.parametrize("name", ["digits", "breast_cancer", "embeddings"])
def test_the_tasks_know_every_model_of_the_checkout(name: str) -> None:
    spec = read_archive_spec(CHECKOUT / "archives" / name / "archive.yaml")
    task = Task(spec.handler, spec.serving("1.0").settings)
    golden = json.loads((CHECKOUT / "archives" / name / "golden" / "1.0.json").read_text())
    sample, answer = next((sample, answer) for sample, answer in golden.items() if sample.endswith(".json"))
    content = json.loads((CHECKOUT / "archives" / name / "samples" / sample).read_text())
    assert task.is_text or len(task.feature(content)) == task.shape[0]
    assert task.answer([0.0] * task.outputs).keys() == answer.keys()


def test_mlserver_is_asked_in_the_open_inference_protocol(tmp_path: Path) -> None:
    peer = mlserver(model(LINEAR), Path("/venv/bin/python"), tmp_path)
    assert peer.wrap is not None
    body, _ = peer.wrap(request({"row": [1.0] * 64}))
    [tensor] = json.loads(body)["inputs"]
    assert (tensor["shape"], tensor["datatype"], len(tensor["data"])) == ([1, 64], "FP32", 64)
    answered = peer.unwrap(Reply(200, json.dumps({"outputs": [{"data": [1.0, 2.0]}]}).encode()))
    assert json.loads(answered.body) == {"scores": [1.0, 2.0]}
    assert peer.unwrap(Reply(500, b"no")) == Reply(500, b"no")
    peer.prepare([8001, 8002, 8003])
    assert json.loads((tmp_path / "settings.json").read_text())["http_port"] == 8001
    assert json.loads((tmp_path / "model-settings.json").read_text())["max_batch_size"] == 32


def test_triton_is_asked_with_binary_tensors(tmp_path: Path) -> None:
    peer = triton(model(DIGITS), Path("/venv/bin/python"), tmp_path)
    assert peer.wrap is not None
    body, headers = peer.wrap(request({"pixels": [[n for _ in range(8)] for n in range(8)]}))
    length = int(headers["inference-header-content-length"])
    [tensor] = json.loads(body[:length])["inputs"]
    assert (tensor["shape"], tensor["parameters"]) == ([1, 8, 8], {"binary_data_size": 256})
    assert struct.unpack("<64f", body[length:])[8:10] == (1.0, 1.0)
    numbers = struct.pack("<10f", *[0.0] * 9, 1.0)
    answered = peer.unwrap(Reply(200, b'{"outputs": [{"name": "numbers"}]}' + numbers))
    assert json.loads(answered.body)["label"] == "9"
    text = triton(model(TEXT), Path("/venv/bin/python"), tmp_path)
    assert text.wrap is not None
    body, headers = text.wrap(request({"text": "grün"}))
    assert body[int(headers["inference-header-content-length"]) :] == struct.pack("<I", 5) + "grün".encode()


def test_bentoml_is_asked_with_a_batch_of_one() -> None:
    peer = bentoml(model(CANCER), Path("/venv/bin/python"))
    assert peer.wrap is not None
    assert json.loads(peer.wrap(request({"a": 1.0, "b": 2.0}))[0]) == {"features": [[1.0, 2.0]]}
    assert json.loads(peer.unwrap(Reply(200, b"[[0.75]]")).body)["label"] == "malignant"


def test_a_peer_that_ends_or_cannot_be_installed_is_named_with_the_reason(tmp_path: Path) -> None:
    ending = Peer("ending", lambda _: ["sh", "-c", "echo ok; echo 'ValueError: no model'; exit 3"], "/", "/")
    contender = PeerContender(ending, tmp_path / "ending")
    with pytest.raises(NodeError, match=r"ending ended with status 3: ValueError: no model$"):
        contender.start()
    contender.stop()
    contender.stop()
    assert contender.pids() == []
    assert PeerContender(ending, tmp_path, "cannot be installed: no network").unavailable.endswith("no network")


def test_the_names_of_figures_are_those_of_contenders() -> None:
    known = {*engines(), FASTAPI, LITSERVE, MLSERVER, BENTOML, TRITON, STOCK}
    for case in CASES.values():
        assert {name for ratio in case.ratios for name in (ratio.of, ratio.over)} <= known
    assert fastapi(model(LINEAR)).name == FASTAPI
    assert set(workloads(None)) == set(CASES)
    for environment in ENVIRONMENTS.values():
        pins = [line for line in environment.lock.read_text().splitlines() if not line.startswith("#")]
        assert any(line.startswith(f"{environment.package}==") for line in pins)
        assert all(re.fullmatch(r"[A-Za-z0-9._-]+==\S+", line) for line in pins)


def test_every_contender_gets_json(tmp_path: Path) -> None:
    bodies = bodies_of("digits", CHECKOUT / "archives" / "digits")
    assert len(bodies) == 4
    read = read_requests(write_traffic(tmp_path / "traffic.jsonl", bodies))
    assert [request.body for request in read] == bodies


def test_the_figures_are_ratios_inside_a_round() -> None:
    overload = OverloadFigures(
        capacity_s=1300.0, offered_s=2600.0, goodput_s=1200.0, refused=5, bad_refusals=1, refusal_p99_ms=3.0,
        refusal_most_ms=60.0, recovery_s=0.5,
    )  # fmt: skip
    comparison = Comparison(
        SETTING,
        Bare((5000.0, 5000.0), (0.1, 0.2)),
        (
            engine("uvicorn", *(replace(turn(rate), overload=overload) for rate in (1300.0, 2600.0))),
            engine(FASTAPI, turn(1000.0), turn(1000.0)),
            engine(TRITON, turn(1300.0), turn(2600.0)),
            replace(engine(LITSERVE, turn(1.0), turn(1.0)), difference="line 1: expected 1, got 2"),
            Measured(MLSERVER, (), "cannot be installed: no network"),
        ),
    )
    found = {figure.name: figure for figure in figures_of(CASES["linear"], comparison)}
    over = found[f"uvicorn over {FASTAPI}"]
    assert over.rounds == (1.3, 2.6)
    assert over.value == pytest.approx(1.95)
    assert over.is_reached
    assert found[f"uvicorn over {TRITON}"].rounds == (1.0, 1.0)
    assert found[f"uvicorn over {LITSERVE}"].why_not == f"{LITSERVE}: line 1: expected 1, got 2"
    assert found[f"uvicorn over {MLSERVER}"].why_not == f"{MLSERVER}: cannot be installed: no network"
    assert "triton was not asked for" in found[f"triton over {TRITON}"].why_not
    lone = found["uvicorn, a lone request over the bare worker"]
    assert list(lone.rounds) == pytest.approx([0.2, 0.1])
    assert found["uvicorn, twice its capacity: bad refusals"].is_reached is False
    assert found["uvicorn, twice its capacity: slowest refusal"].is_reached is False
    answered = found["uvicorn, twice its capacity: answered"]
    assert list(answered.rounds) == pytest.approx([1200 / 1300, 1200 / 1300])
    assert found["uvicorn, twice its capacity: recovery"].is_reached is True


def test_a_ratio_with_failed_requests_reaches_no_goal() -> None:
    peer = turn(1000)
    failing = replace(peer, saturated=replace(peer.saturated, failed=3))
    comparison = Comparison(SETTING, Bare((1000.0,), (1.0,)), (engine("uvicorn", turn(5000)), engine(FASTAPI, failing)))
    found = {figure.name: figure for figure in figures_of(CASES["linear"], comparison)}[f"uvicorn over {FASTAPI}"]
    assert (found.rounds, found.failed, found.is_reached) == ((5.0,), 3, False)
