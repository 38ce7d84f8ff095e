"""The whole deployment on one node: the output of `up` and `status`, and the answers of the three models over HTTP."""

from __future__ import annotations

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import yaml

from tests.support.commands import Result
from tests.support.sites import MODELS, TINY, Site, is_alive, make_site, until, write_tiny

PROBLEM_FIELDS = {"type", "title", "status", "detail", "request_id", "model", "version", "error"}


def golden(site: Site, model: str, version: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((site.root / "archives" / model / "golden" / f"{version}.json").read_text())
    return loaded


def test_up_prints_an_answer_of_every_model_and_its_endpoints(up: tuple[Site, Result]) -> None:
    site, printed = up
    for model in MODELS:
        assert f"{model} 1.0" in printed.out
    assert printed.out.count("\n  200 {") == len(MODELS)
    assert f"{site.inference}/predictions/" in printed.out


def test_the_printed_curl_line_works_when_pasted_and_shows_no_token(up: tuple[Site, Result]) -> None:
    site, printed = up
    [line] = [line for line in printed.out.splitlines() if line.startswith("curl")]
    token = site.headers()["Authorization"].removeprefix("Bearer ")
    assert token not in printed.out + printed.err
    pasted = subprocess.run(["bash", "-c", line], cwd=site.root, capture_output=True, text=True, timeout=30, check=True)
    assert "label" in json.loads(pasted.stdout)


def test_up_again_changes_nothing_and_says_so(up: tuple[Site, Result]) -> None:
    site, _ = up
    before = site.run("models", "list", "--json").out
    pid = site.pid
    again = site.run("up")
    assert "nothing to change" in again.out
    assert (site.run("models", "list", "--json").out, site.pid) == (before, pid)


def test_status_shows_every_version_as_ready(node: Site) -> None:
    status = node.run("status", "--json").json()
    assert status["is_ready"]
    rows = {(row["model"], row["version"]): row for row in status["versions"]}
    assert set(rows) == {("digits", "1.0"), ("digits", "2.0"), ("embeddings", "1.0"), ("breast_cancer", "1.0")}
    assert all(row["state"] == "ready" and len(row["digest"]) == 12 for row in rows.values())
    assert [version for (model, version), row in rows.items() if model == "digits" and row["is_default"]] == ["1.0"]
    table = node.run("status").out.splitlines()
    assert table[0].startswith("node local: ready (pid ")
    assert table[2].split() == ["MODEL", "VERSION", "DEFAULT", "STATE", "WORKERS", "QUEUE", "ARCHIVE"]


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize(("suffix", "media_type"), [(".json", "application/json"), (".png", "image/png")])
def test_digits_answers_each_version_with_its_golden_answer(
    node: Site, version: str, suffix: str, media_type: str
) -> None:
    name, expected = next((n, a) for n, a in sorted(golden(node, "digits", version).items()) if n.endswith(suffix))
    body = (node.root / "archives" / "digits" / "samples" / name).read_bytes()
    answer = node.ask(f"digits/{version}", body, media_type)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-model-version"] == version
    assert answer.json()["label"] == expected["label"]
    assert np.allclose(answer.json()["probabilities"], expected["probabilities"], atol=1e-3)


def test_a_picture_without_a_content_type_is_known_by_its_bytes(node: Site) -> None:
    picture = node.sample("digits", ".png")
    assert node.ask("digits", picture, None).json() == node.ask("digits", picture, "image/png").json()


def test_embeddings_are_unit_vectors_and_near_duplicates_are_close(node: Site) -> None:
    sentences = ["A man is eating food.", "A man eats some food.", "The stock market fell on Monday."]
    answer = node.ask("embeddings", json.dumps({"text": sentences}).encode())
    vectors = np.array(answer.json()["embeddings"])
    assert vectors.shape == (3, 384)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    assert vectors[0] @ vectors[1] > 0.85 > 0.3 > vectors[0] @ vectors[2]


def test_breast_cancer_answers_a_label_and_its_probability(node: Site) -> None:
    answer = node.ask("breast_cancer", node.sample("breast_cancer"))
    assert set(answer.json()) == {"label", "probability"}


@pytest.mark.parametrize(
    ("model", "body", "media_type", "status"),
    [
        ("digits", b"{", "application/json", 400),
        ("digits", b"\xff\xfe", "application/json", 400),
        ("digits", b"\x89PNG\r\n\x1a\n" + b"0" * 40, "image/png", 400),
        ("digits", b'{"pixels": "' + b"0" * (1 << 20) + b'"}', "application/json", 413),
        ("digits", b"GIF89a", "image/gif", 415),
        ("digits", b'{"pixels": [[1, 2], [3]]}', "application/json", 422),
        ("digits", b'{"pixels": [[17]]}', "application/json", 422),
        ("embeddings", b'{"text": []}', "application/json", 422),
        ("embeddings", b'{"text": 5}', "application/json", 422),
        ("breast_cancer", b'{"mean_radius": 1}', "application/json", 422),
        ("breast_cancer", b"null", "application/json", 422),
    ],
)
def test_a_bad_request_is_answered_with_a_problem_document(
    node: Site, model: str, body: bytes, media_type: str, status: int
) -> None:
    answer = node.ask(model, body, media_type, **{"x-request-id": "from-the-client"})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert set(problem) >= PROBLEM_FIELDS
    assert (problem["status"], problem["request_id"], problem["model"]) == (status, "from-the-client", model)
    assert ("errors" in problem) == (status == 422)
    assert "Traceback" not in answer.text
    assert str(node.root) not in answer.text


def test_bad_items_of_a_batch_leave_their_neighbours_alone(node: Site) -> None:
    good = node.sample("digits")
    expected = node.ask("digits", good).json()
    bodies = [good, b"{", good, b'{"pixels": []}', good, good] * 20
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda body: node.ask("digits", body), bodies))
    assert [answer.status_code for answer in answers] == [200, 400, 200, 422, 200, 200] * 20
    assert {answer.json()["label"] for answer in answers if answer.status_code == 200} == {expected["label"]}


def test_an_unknown_model_and_version_are_404(node: Site) -> None:
    assert node.ask("nobody", b"{}").status_code == 404
    assert node.ask("digits/9.9", b"{}").status_code == 404


def test_a_request_without_the_token_is_refused(node: Site) -> None:
    answer = node.ask("digits", node.sample("digits"), **{"Authorization": "Bearer wrong"})
    assert answer.status_code == 400
    assert answer.json()["type"] == "InvalidKeyException"


def test_a_worker_sees_no_secret_of_the_operator(node: Site) -> None:
    [pid] = node.workers("digits", "1.0")
    with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123 - a file of the kernel
        environment = file.read()
    assert b"PYTHONPATH=" in environment, "TorchServe sets it to the archive's folder"
    assert b"must-not-reach-a-worker" not in environment
    assert str(node.environment["PYTHONPATH"]).encode() not in environment


def test_no_token_stands_in_an_argument_or_a_log(node: Site) -> None:
    keys = json.loads((node.folder / "key_file.json").read_text())
    secrets = [entry["key"].encode() for entry in keys.values()]
    written = b"".join(path.read_bytes() for path in (node.folder / "logs").rglob("*") if path.is_file())
    arguments = subprocess.run(["ps", "-eo", "args"], capture_output=True, check=True).stdout
    assert not [secret for secret in secrets if secret in written + arguments]
    assert node.folder.stat().st_mode & 0o077 == 0


def test_the_describe_call_returns_the_request_schema(node: Site) -> None:
    import requests

    keys = json.loads((node.folder / "key_file.json").read_text())
    url = f"{node.deployment['nodes']['local']['management']}/models/breast_cancer/1.0?customized=true"
    [entry] = requests.get(url, headers={"Authorization": f"Bearer {keys['management']['key']}"}, timeout=10).json()
    metadata = entry["customizedMetadata"]
    assert (metadata["model"], metadata["version"]) == ("breast_cancer", "1.0")
    assert len(metadata["request_schema"]["required"]) == 30


def test_workers_report_their_warm_up(node: Site) -> None:
    def reports() -> list[dict[str, Any]]:  # TorchServe writes what a worker prints some time after it is READY
        lines = (node.folder / "logs" / "model_log.log").read_text().splitlines()
        return [
            json.loads(line.partition("[TSCTL LOAD]")[2]) for line in lines if line.endswith("}") and "[TSCTL" in line
        ]

    digits = until(lambda: [report for report in reports() if report["model"] == "digits"], 10, "its report")[0]
    assert digits["outcome"] == "ready"
    assert [timing["batch"] for timing in digits["warmup"]] == [1, 2, 4, 8, 16, 32]
    assert all(timing["warm_ms"] <= timing["cold_ms"] for timing in digits["warmup"])


def test_metrics_are_there_for_prometheus(node: Site) -> None:
    import requests

    node.ask("digits/1.0", node.sample("digits"))
    text = requests.get(f"{node.deployment['nodes']['local']['metrics']}/metrics", timeout=10).text
    assert 'ts_inference_requests_total{model_name="digits",model_version="1.0"' in text


def test_down_stops_this_node_and_only_this(site: Site, node: Site) -> None:
    site.run("node", "start")
    mine, other = site.pid, node.pid
    site.run("down")
    assert not is_alive(mine)
    assert is_alive(other)
    assert "was not running" in site.run("down").out


def test_up_starts_every_node_of_this_machine_and_down_stops_them(site: Site) -> None:
    write_tiny(site, "tiny", {"1.0": {}})
    site.deploy(TINY)
    content = site.deployment
    content["nodes"]["second"] = make_site(site.root / "ports").deployment["nodes"]["local"]
    far = {name: f"http://192.0.2.1:{port}" for name, port in (("inference", 1), ("management", 2), ("metrics", 3))}
    content["nodes"]["far"] = {**far, "key_file": "nowhere.json"}
    (site.root / "deployment.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    first = site.run("up")
    assert "node far at 192.0.2.1 is started and stopped by its own tsctl" in first.err
    assert first.out.count("\n  200 {") == 2
    assert "node second: tiny 1.0  samples/half.json" in first.out
    assert "inference of second" in first.out
    assert "nothing to change: nodes local, second serve" in site.run("up").out
    status = site.run("status", status=4)
    assert "node far: does not answer (the node is not running: there is no " in status.out
    assert status.out.count("tiny   1.0") == 2
    assert [one["is_running"] for one in site.run("status", "--json", status=4).json()["nodes"]] == [True, True, False]
    site.run("down", "--node", "second")
    assert "node second was not running" in site.run("down").out
