"""`tsctl serve`: real processes; the same answers as behind TorchServe, and what happens when something goes wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

from handlers.contract import (
    ANSWERED_ITEMS,
    CLASS_HEADER,
    JSON,
    MODEL_VERSION_HEADER,
    PROBLEM_MEDIA_TYPE,
    TIMEOUT_HEADER,
)
from handlers.telemetry.metrics import FLUSH_S
from tests.handlers.test_second_adapter import bad_items
from tests.support.ports import free_ports
from tests.support.sites import Site, copy_archives, make_site, processes_of, throughout, until, write_tiny
from tsctl.host.wait import wait_until

START_S = 180.0
HALF = {"x": 0.5}


@dataclass
class Server:
    """A running `tsctl serve`."""

    url: str
    model: str
    process: subprocess.Popen[str]

    def ask(self, body: Any, headers: Mapping[str, str] | None = None, timeout: float = 20) -> requests.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        url = f"{self.url}/predictions/{self.model}"
        return requests.post(url, content, headers={"content-type": JSON, **(headers or {})}, timeout=timeout)

    @property
    def is_ready(self) -> bool:
        try:
            return requests.get(f"{self.url}/ping", timeout=2).status_code == 200
        except requests.ConnectionError:
            return False

    def answered(self) -> dict[str, float]:
        """How many items were answered, by outcome."""
        page = requests.get(f"{self.url}/metrics", timeout=20).text
        samples = [sample for family in text_string_to_metric_families(page) for sample in family.samples]
        return {s.labels["outcome"]: s.value for s in samples if s.name == ANSWERED_ITEMS}

    @property
    def workers(self) -> list[int]:
        """The pids of its worker processes."""
        process = psutil.Process(self.process.pid)
        [server] = [each for each in (process, *process.children()) if "handlers.adapters.asgi" in each.cmdline()]
        workers = [p.pid for p in psutil.process_iter() if "handlers.adapters.asgi.child" in cmdline(p)]
        return [pid for pid in workers if folder_of(pid) == server.cwd()]  # of its own copy of the archive


@contextmanager
def served(site: Site, model: str, *options: str) -> Iterator[Server]:
    """`tsctl serve` while it is ready; afterwards nothing of it may be left."""
    [port] = free_ports(1)
    with site.start("serve", model, "--port", str(port), *options) as process:
        server = Server(f"http://127.0.0.1:{port}", model.partition(":")[0], process)
        if not wait_until(lambda: server.is_ready or process.poll() is not None, START_S, 0.1) or process.poll():
            process.kill()
            pytest.fail(f"not ready: {process.communicate()}")
        yield server
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    left = [p.pid for p in psutil.process_iter() if "handlers.adapters.asgi" in " ".join(cmdline(p))]
    assert not [pid for pid in left if str(port) in " ".join(cmdline(psutil.Process(pid)))]
    assert processes_of(site.root) == []


def folder_of(pid: int) -> str | None:
    try:
        return str(psutil.Process(pid).cwd())
    except psutil.Error:
        return None


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = make_site(tmp_path_factory.mktemp("serve") / "site")
    copy_archives(made, "breast_cancer")
    return made


@pytest.fixture(scope="module")
def cancer(project: Site) -> Iterator[Server]:
    with served(project, "breast_cancer") as server:
        yield server


def tiny(site: Site, settings: dict[str, Any] | None = None, **more: Any) -> None:
    write_tiny(site, "tiny", {"1.0": settings or {}}, **more)


def problem_of(response: requests.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == PROBLEM_MEDIA_TYPE
    document: dict[str, Any] = response.json()
    assert document["status"] == response.status_code
    return document


# ---- answers ---------------------------------------------------------------------------------------------------------


def test_golden_samples_are_answered_with_version_class_and_request_id(project: Site, cancer: Server) -> None:
    folder = project.root / "archives" / "breast_cancer"
    golden = json.loads((folder / "golden" / "1.0.json").read_text())
    for name, expected in golden.items():
        response = cancer.ask((folder / "samples" / name).read_bytes(), {"x-request-id": f"mine-{name}"})
        assert response.status_code == 200
        assert response.json()["label"] == expected["label"] == response.headers[CLASS_HEADER]
        assert response.json()["probability"] == pytest.approx(expected["probability"], abs=1e-4)
        assert response.headers[MODEL_VERSION_HEADER] == "1.0"
        assert response.headers["x-request-id"] == f"mine-{name}"


def test_what_no_worker_answers_with_a_prediction_is_a_problem_document(project: Site, cancer: Server) -> None:
    sample = sorted((project.root / "archives" / "breast_cancer" / "samples").iterdir())[0].read_bytes()
    for name, item in bad_items(sample, 1 << 20).items():
        if "infer" in name or TIMEOUT_HEADER in item.headers:  # by another path; below
            continue
        response = cancer.ask(item.body, {"content-type": item.media_type, **item.headers})
        assert 400 <= response.status_code < 500, name
        assert problem_of(response)["model"] == "breast_cancer"
    assert problem_of(cancer.ask(sample, {TIMEOUT_HEADER: "soon"}))["type"].endswith("unreadable-header")
    assert problem_of(cancer.ask(sample, {TIMEOUT_HEADER: "0"}))["type"].endswith("deadline-passed")


def test_rows_of_the_open_inference_protocol_are_answered(project: Site, cancer: Server) -> None:
    sample = json.loads(sorted((project.root / "archives" / "breast_cancer" / "samples").glob("*.json"))[0].read_text())
    tensors = [{"name": n, "shape": [2, 1], "datatype": "FP32", "data": [v, v]} for n, v in sample.items()]
    for path in ("/v2/models/breast_cancer/infer", "/v2/models/breast_cancer/versions/1.0/infer"):
        response = requests.post(cancer.url + path, json={"inputs": tensors}, timeout=20)
        assert response.status_code == 200
        outputs = {output["name"]: output["data"] for output in response.json()["outputs"]}
        assert outputs["label"][0] == outputs["label"][1] == cancer.ask(sample).json()["label"]


def test_paths_methods_and_metadata(cancer: Server) -> None:
    assert cancer.ask(HALF).status_code == 422
    unknown = requests.post(f"{cancer.url}/predictions/other", json={}, timeout=20)
    assert (unknown.status_code, problem_of(unknown)["type"]) == (404, "urn:tsctl:problem:not-found")
    for path, method in (("/predictions/breast_cancer", "GET"), ("/ping", "DELETE")):
        wrong = requests.request(method, cancer.url + path, timeout=20)
        assert (wrong.status_code, problem_of(wrong)["title"]) == (405, "The method is not allowed")
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/breast_cancer/ready"):
        assert requests.get(cancer.url + path, timeout=20).status_code == 200
    described = requests.get(f"{cancer.url}/models/breast_cancer", timeout=20).json()
    assert (described["version"], described["media_types"]) == ("1.0", [JSON])
    document = requests.get(f"{cancer.url}/openapi.json", timeout=20).json()
    content = document["paths"]["/predictions/breast_cancer"]["post"]["requestBody"]["content"][JSON]
    assert content["schema"] == described["request_schema"]
    example = next(iter(content["examples"].values()))["value"]
    assert cancer.ask(example).status_code == 200
    assert "swagger" in requests.get(f"{cancer.url}/docs", timeout=20).text


def test_metrics_count_what_clients_got(cancer: Server, project: Site) -> None:
    folder = project.root / "archives" / "breast_cancer" / "samples"
    sample = sorted(folder.glob("*.json"))[0].read_bytes()

    def settled() -> dict[str, float]:
        """When what was asked before is counted: workers write in intervals."""
        before: dict[str, float] = {}
        while (now := cancer.answered()) != before:
            before = now
            time.sleep(2 * FLUSH_S)
        return now

    before = settled()
    for body in (sample, sample, b"{"):
        cancer.ask(body)
    after = settled()
    grown = {outcome: after[outcome] - before.get(outcome, 0) for outcome in after}
    assert {outcome: items for outcome, items in grown.items() if items} == {"ok": 2, "undecodable-body": 1}


# ---- batches, bounds and time ----------------------------------------------------------------------------------------


def test_the_next_batch_is_what_came_while_the_last_one_ran(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    tiny(site, {"inference_s": 0.5})
    with served(site, "tiny") as server, ThreadPoolExecutor(16) as pool:
        begin = time.monotonic()
        answers = list(pool.map(lambda x: server.ask({"x": x}), range(9)))
        took = time.monotonic() - begin
        assert [answer.json() for answer in answers] == [{"y": 2.0 * x} for x in range(9)]
        # one request or a few first, then batches of 4: far from 9 times half a second
        assert took < 9 * 0.5


def test_beyond_its_bound_a_request_is_refused_at_once_and_the_others_are_answered(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    tiny(site, {"inference_s": 1.0}, batch={"size": 1, "max_delay_ms": 1}, queue_size=2)
    with served(site, "tiny") as server, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: server.ask(HALF), range(8)))
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses.count(200) in (3, 4)  # one computed, two that wait, and perhaps one that came later
        refused = [answer for answer in answers if answer.status_code != 200]
        assert {answer.status_code for answer in refused} == {503}
        for answer in refused:
            assert answer.headers["retry-after"] == "1"
            assert "Too many requests wait" in problem_of(answer)["detail"]
        assert server.ask(HALF).json() == {"y": 1.0}


def test_a_request_that_waits_too_long_is_504_and_one_whose_client_left_is_not_computed(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    tiny(site, {"inference_s": 1.0}, batch={"size": 1, "max_delay_ms": 1})
    with served(site, "tiny") as server, ThreadPoolExecutor(4) as pool:
        first = pool.submit(server.ask, HALF)
        time.sleep(0.2)
        impatient = pool.submit(server.ask, HALF, {TIMEOUT_HEADER: "300"})
        with pytest.raises(requests.ReadTimeout):
            server.ask(HALF, timeout=0.4)  # hangs up while it waits
        last = pool.submit(server.ask, HALF)
        assert first.result().status_code == 200
        assert problem_of(impatient.result())["type"].endswith("deadline-passed")
        assert last.result().status_code == 200
        until(lambda: server.answered().get("ok") == 2, 10, "the counts of the worker")
        throughout(lambda: server.answered()["ok"] == 2, 2 * FLUSH_S, "that two requests were computed")


def test_a_batch_that_does_not_end_is_504_and_its_worker_starts_anew(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    settings = {"slow_above": 10.0, "slow_s": 60}
    tiny(site, settings, timeouts={"startup_s": 30, "response_s": 2, "retry_s": 5})
    with served(site, "tiny") as server:
        [before] = server.workers
        assert problem_of(server.ask({"x": 11}))["type"].endswith("deadline-passed")
        assert wait_until(lambda: server.is_ready and server.workers != [before], START_S, 0.1)
        assert server.ask(HALF).json() == {"y": 1.0}


# ---- processes -------------------------------------------------------------------------------------------------------


def test_a_killed_worker_costs_its_batch_alone(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    tiny(site, {"inference_s": 0.5}, batch={"size": 1, "max_delay_ms": 1})
    with served(site, "tiny", "--workers", "2") as server, ThreadPoolExecutor(4) as pool:
        assert wait_until(lambda: len(server.workers) == 2 and ready_workers(server) == 2, START_S, 0.1)
        both = [pool.submit(server.ask, HALF) for _ in range(4)]
        time.sleep(0.25)
        killed = server.workers[0]
        os.kill(killed, signal.SIGKILL)
        answers = [one.result() for one in both]
        assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 500]
        assert problem_of(next(a for a in answers if a.status_code == 500))["type"].endswith("worker-failed")
        assert wait_until(lambda: ready_workers(server) == 2, START_S, 0.1)
        assert killed not in server.workers


def ready_workers(server: Server) -> int:
    number: int = requests.get(f"{server.url}/ping", timeout=2).json()["workers"]
    return number


def test_sigterm_answers_what_came_and_ends_with_0(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    tiny(site, {"inference_s": 1.0}, batch={"size": 1, "max_delay_ms": 1})
    with served(site, "tiny") as server, ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(server.ask, HALF) for _ in range(3)]
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        assert [one.result().status_code for one in asked] == [200, 200, 200]
        assert server.process.wait(30) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_server_inside_an_archive_ends_its_workers_and_then_with_0(tmp_path: Path, number: signal.Signals) -> None:
    site = make_site(tmp_path / "site")
    tiny(site, {"load_s": 0.2, "inference_s": 1.0})
    site.run("archive", "build", "tiny")
    [archive] = (site.root / "archives" / "store").glob("tiny-1.0-*.mar")
    with zipfile.ZipFile(archive) as content:
        content.extractall(tmp_path / "unpacked")
    [port] = free_ports(1)
    command = [sys.executable, "-m", "handlers.adapters.asgi", "--port", str(port)]
    with subprocess.Popen(command, cwd=tmp_path / "unpacked", stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = re.fullmatch(r"tiny 1\.0 is ready after ([\d.]+) s on cpu: .*\n", process.stdout.readline())
        server = Server(f"http://127.0.0.1:{port}", "tiny", process)
        [worker] = server.workers
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(server.ask, HALF)
            time.sleep(0.3)
            process.send_signal(number)
            assert asked.result().status_code == 200
        assert process.wait(30) == 0
    assert said is not None and float(said[1]) >= 0.2
    assert not psutil.pid_exists(worker)


def test_an_archive_that_must_not_serve_says_why(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    write_tiny(site, "tiny", {"1.0": {}}, golden=17.0)
    [port] = free_ports(1)
    ended = site.run("serve", "tiny", "--port", str(port), status=3)
    assert "sample half.json" in ended.err and "must not serve" in ended.err
    assert processes_of(site.root) == []


def test_a_port_that_is_taken_says_so(tmp_path: Path, cancer: Server) -> None:
    site = make_site(tmp_path / "site")
    tiny(site)
    taken = cancer.url.rpartition(":")[2]
    ended = site.run("serve", "tiny", "--port", taken, status=4)
    assert "Address already in use" in ended.err
    [port] = free_ports(1)
    ended = site.run("serve", "tiny", "--port", str(port), "--grpc-port", taken, status=4)
    assert f"cannot listen on 127.0.0.1:{taken}" in ended.err


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("nothing",), 3, "there is no model nothing"),
        (("tiny:7.0",), 2, "no archive.yaml names tiny:7.0"),
        (("missing.mar",), 3, "no such file"),
        (("tiny", "--port", "0"), 2, "--port"),
        (("some.mar", "--reload"), 2, "needs a model's name"),
        (("nothing", "--reload"), 2, "nothing has no folder"),
    ],
)
def test_a_mistake_of_the_command_line_is_one_line(
    tmp_path: Path, arguments: tuple[str, ...], status: int, said: str
) -> None:
    site = make_site(tmp_path / "site")
    tiny(site)
    ended = site.run("serve", *arguments, status=status)
    assert said in ended.err
    assert "Traceback" not in ended.err


def test_reload_serves_what_was_changed(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    tiny(site)
    with served(site, "tiny", "--reload") as server:
        assert server.ask(HALF).json() == {"y": 1.0}
        spec = site.root / "archives" / "tiny" / "archive.yaml"
        whole = spec.read_text()
        spec.write_text("model: [")
        time.sleep(1.5)
        assert server.ask(HALF).json() == {"y": 1.0}, "what cannot be built leaves the server as it is"
        content = yaml.safe_load(whole)
        content["versions"]["1.0"]["settings"] = {"factor": 4.0}
        (site.root / "archives" / "tiny" / "golden" / "1.0.json").write_text('{"half.json": {"y": 2.0}}')
        spec.write_text(yaml.safe_dump(content, sort_keys=False))
        assert wait_until(lambda: server.is_ready and server.ask(HALF).json() == {"y": 2.0}, START_S, 0.2)
