"""Archives in the shapes of TorchServe's own examples on one node: added, served, checked, told of errors, released."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import requests
import yaml

from tests.support.gateways import PROBLEM, Front, brought_up, with_gateway
from tests.support.releases import POLICY
from tests.support.sites import make_site
from tests.support.stock import MAKERS, SAMPLES

TYPES = {".png": "image/png", ".txt": "text/plain", ".json": "application/json"}
ANSWERS: dict[str, Any] = {
    "function": {"y": 7},
    "stream": "part 0 part 1 part 2 end",
}
FUNCTION = "/predictions/function"


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """Four stock archives behind a gateway: three added, with a sample each; the fourth copied into the store."""
    folder = tmp_path_factory.mktemp("stock")
    site = make_site(folder / "site")
    site.deploy({model: {"default": "1.0", "versions": {"1.0": {"workers": 1}}} for model in MAKERS})
    content = site.deployment
    content["rollout"] = {**POLICY, "steps": [50, 100], "min_requests": 5}
    (site.root / "deployment.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    base, metrics = with_gateway(site, {"idempotent": False})
    for model, make in MAKERS.items():
        path = make(folder / model)
        name, body = SAMPLES[model]
        (folder / name).write_bytes(body)
        if model == "stream":
            (site.root / "archives" / "store").mkdir(exist_ok=True)
            shutil.copy(path, site.root / "archives" / "store")
            (site.root / "archives" / model / "samples").mkdir(parents=True)
            shutil.copy(folder / name, site.root / "archives" / model / "samples")
        else:
            added = site.run("archive", "add", str(path), "--sample", str(folder / name))
            assert added.out.startswith(f"{model}-1.0-")
            assert "deployment.yaml" not in added.err, "it names the model already"
    with brought_up(site, base, metrics) as running:
        yield running


def ask(front: Front, model: str) -> Any:
    name, body = SAMPLES[model]
    kind = TYPES[Path(name).suffix]
    answer = front.ask(f"/predictions/{model}", body, **{"content-type": kind})
    assert answer.status_code == 200, answer.text
    return answer.text if model == "stream" else answer.json()


@pytest.mark.parametrize("model", MAKERS)
def test_each_shape_is_answered_through_the_gateway(front: Front, model: str) -> None:
    answer = ask(front, model)
    assert answer == ANSWERS.get(model, answer)
    if model == "pictures":
        assert len(answer) == 2 and answer.keys() < {"cat", "dog", "horse"}
    if model == "texts":
        assert answer["World"] + answer["Sport"] == pytest.approx(1.0)


def test_an_answer_in_parts_leaves_in_parts(front: Front) -> None:
    sent = {"content-type": "text/plain", "x-api-key": front.key}
    with requests.post(
        f"{front.base}/predictions/stream", data=b"part", headers=sent, stream=True, timeout=30
    ) as answer:
        assert answer.headers["transfer-encoding"] == "chunked"
        assert b"".join(answer.iter_content(None)) == ANSWERS["stream"].encode()


def test_golden_answers_are_recorded_from_the_node_and_compared(front: Front) -> None:
    site = front.site
    site.run("models", "unregister", "pictures", "1.0", "--force")
    assert "1 worker, no golden answers" in site.run("plan", status=12).out
    site.run("apply")
    recorded = site.run("archive", "golden", "--from-node")
    assert sorted(recorded.out.splitlines()) == sorted(f"{model} 1.0 {name}" for model, (name, _) in SAMPLES.items())
    golden = site.root / "archives" / "pictures" / "golden" / "1.0.json"
    assert json.loads(golden.read_text()).keys() == {"gradient.png"}
    assert site.run("archive", "golden", "pictures", "--from-node").out == ""
    verified = site.run("archive", "verify", "pictures:1.0").out
    assert "1 golden" in verified and "golden answers, alone" in verified
    right = golden.read_text()
    site.run("models", "unregister", "pictures", "1.0", "--force")
    golden.write_text(json.dumps({"gradient.png": {"cat": 0.9, "dog": 0.1}}))
    assert "no golden answers" not in site.run("plan", status=12).out
    refused = site.run("apply", status=4)
    assert "pictures 1.0 on node local answers sample samples/gradient.png wrongly" in refused.err
    golden.write_text(right)
    site.run("models", "unregister", "pictures", "1.0", "--force", status=None)
    site.run("apply")
    assert ask(front, "pictures")


FAILED = "urn:tsctl:problem:worker-failed"
REFUSED = "urn:tsctl:problem:bad-request"
SAYS = 'x must be "positive" \\ é'
ERRORS: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "an exception": ({"fail": "exception"}, 500, FAILED, ""),
    "no memory": ({"fail": "memory"}, 500, FAILED, ""),
    "an answer that is no list": ({"fail": "type"}, 500, FAILED, ""),
    "answers of another number": ({"fail": "length"}, 500, FAILED, ""),
    "a value that cannot be sent": ({"fail": "value"}, 500, FAILED, ""),
    "a refusal": ({"fail": "prediction", "code": 422, "message": SAYS}, 422, REFUSED, SAYS),
    "an unknown user": ({"fail": "prediction", "code": 404, "message": SAYS}, 404, REFUSED, SAYS),
    "a failure": ({"fail": "prediction", "code": 503, "message": SAYS}, 503, FAILED, SAYS),
    "a status that is none": ({"fail": "prediction", "code": 1000, "message": SAYS}, 500, FAILED, ""),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_is_told_as_what_it_is(front: Front, kind: str) -> None:
    body, status, problem, said = ERRORS[kind]
    name = f"error-{list(ERRORS).index(kind)}"
    answer = front.ask(FUNCTION, json.dumps(body).encode(), **{"x-request-id": name})
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM), answer.text
    document = answer.json()
    assert (document["status"], document["type"], document["request_id"]) == (status, problem, name)
    assert document["detail"] == said if said else "secret" not in answer.text
    assert "retry-after" not in answer.headers
    assert front.ask(FUNCTION, b'{"x": 2}').json() == {"y": 7}, "the node still answers"


def test_a_handlers_own_status_of_an_answer_passes(front: Front) -> None:
    answer = front.ask(FUNCTION, b'{"fail": "item", "code": 409, "x": 2}')
    assert (answer.status_code, answer.json()) == (409, {"y": 7})


def test_every_shape_is_verified_and_released(front: Front, tmp_path: Path) -> None:
    site = front.site
    for model, make in MAKERS.items():
        site.run("archive", "add", str(make(tmp_path / model, "2.0")))
    site.run("archive", "golden", "function:2.0", "texts:2.0")
    over = Event()

    def load(model: str) -> int:
        count = 0
        while not over.is_set():
            ask(front, model)
            count += 1
        return count

    with ThreadPoolExecutor(len(MAKERS)) as pool, ExitStack() as ending:
        ending.callback(over.set)
        loads = [pool.submit(load, model) for model in MAKERS]
        started = {model: ending.enter_context(site.start("rollout", "start", model, "2.0")) for model in MAKERS}
        ended = {model: (process.communicate(timeout=150), process.returncode) for model, process in started.items()}
        over.set()
        assert all(each.result() > 0 for each in loads)
    for model, ((out, err), status) in ended.items():
        assert status == 0, f"{model}: {out}\n{err}"
        has_golden = model in ("function", "texts")
        assert ("its archive has none, so its answers were not compared" in " ".join(err.split())) != has_golden
    stable = {route["model"]: route["stable"] for route in site.run("weights", "show", "--json").json()}
    assert stable == dict.fromkeys(MAKERS, "2.0")
