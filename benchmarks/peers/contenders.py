"""Peers as contenders: processes with an environment of their own, around the model code in `servers/`.

Each has the model in one process (FastAPI in two, because nothing else is there to accept requests), the batch of the
archive where it batches, and as many threads of torch as the archive's worker has.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import requests

from benchmarks.peers.servers.tasks import Task
from benchmarks.peers.tritonserver import Tritonserver
from tsctl.compare.contender import Endpoint
from tsctl.compare.recorded import RecordedRequest
from tsctl.errors import NodeError
from tsctl.host.http import direct_session
from tsctl.host.ports import free_ports
from tsctl.nodes.observed import Reply

SERVERS = Path(__file__).with_name("servers")
START_S = 120.0
STOP_S = 15.0
POLL_S = 0.02
#: Seconds that one request may take while a peer starts.
ASK_S = 30.0
LOG_LINES, LINE = 2, 300
FASTAPI_PROCESSES = 2


@dataclass(frozen=True)
class Peer:
    """How one peer is started, and how it is asked.

    Args:
        command: for the ports that it gets.
        ports: how many.
        ready: the path that answers 200 once it is ready; empty: a connection is enough.
        wrap, unwrap: as in an Endpoint.
    """

    name: str
    command: Callable[[Sequence[int]], Sequence[str]]
    path: str
    ready: str
    ports: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    wrap: Callable[[RecordedRequest], tuple[bytes, Mapping[str, str]]] | None = None
    unwrap: Callable[[Reply], Reply] = lambda reply: reply
    prepare: Callable[[Sequence[int]], None] = lambda ports: None


class PeerContender:
    """A peer with the model in a folder.

    Args:
        folder: its working folder, where its log lies.
        reason: why it cannot run; empty where it can.
    """

    def __init__(self, peer: Peer, folder: Path, reason: str = "") -> None:
        self.name = peer.name
        self.unavailable = reason
        self._peer = peer
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.ports: Sequence[int] = ()  # of the last start

    def start(self) -> Endpoint:
        """Start it, and wait until it is ready."""
        peer = self._peer
        self.ports = ports = free_ports(peer.ports)
        peer.prepare(ports)
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                list(peer.command(ports)),
                cwd=self._folder,
                env={**os.environ, "PEER_PORT": str(ports[0]), **peer.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that one signal ends the whole group
            )
        self._wait_ready(self._process, f"http://127.0.0.1:{ports[0]}{peer.ready}")
        return Endpoint("127.0.0.1", ports[0], peer.path, wrap=peer.wrap, unwrap=peer.unwrap)

    def pids(self) -> Sequence[int]:
        """The process that was started."""
        return [self._process.pid] if self._process is not None else []

    def stop(self) -> None:
        """End its whole group."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    @property
    def _log(self) -> Path:
        return self._folder / "log"

    def _wait_ready(self, process: subprocess.Popen[bytes], url: str) -> None:
        session, end = direct_session(), time.monotonic() + START_S
        last = "nothing listens"
        while time.monotonic() < end:
            if process.poll() is not None:
                raise NodeError(f"{self.name} ended with status {process.returncode}: {self._last_lines()}")
            try:
                status = session.get(url, timeout=ASK_S).status_code
            except requests.RequestException as error:
                last = type(error).__name__
            else:
                if status == 200:
                    return
                last = f"status {status}"
            time.sleep(POLL_S)
        raise NodeError(f"{self.name} is not ready after {START_S:g} s ({last}): {self._last_lines()}")

    def _last_lines(self) -> str:
        """The last lines of its log that name an error; its last ones where none does."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        wrong = [line for line in lines if "Error" in line or "ERROR" in line]
        return " | ".join(line[:LINE] for line in (wrong or lines)[-LOG_LINES:])


@dataclass(frozen=True)
class Model:
    """The unpacked archive that peers serve."""

    folder: Path
    task: Task
    batch: int
    threads: int

    @property
    def environment(self) -> dict[str, str]:
        """What the files in `servers/` read."""
        return {
            "PEER_FOLDER": str(self.folder),
            "PEER_BATCH": str(self.batch),
            "PEER_THREADS": str(self.threads),
            "PEER_PACKAGES": sysconfig.get_path("purelib"),  # torch and transformers, after the peer's own packages
            "PYTHONPATH": str(SERVERS),
            "OMP_NUM_THREADS": str(self.threads),
        }


def fastapi(model: Model) -> Peer:
    """FastAPI under uvicorn with two processes, uvloop and httptools, and no access log."""

    def command(ports: Sequence[int]) -> list[str]:
        return [
            sys.executable, "-m", "uvicorn", "--app-dir", str(SERVERS), "--host", "127.0.0.1", "--port", str(ports[0]),
            "--workers", str(FASTAPI_PROCESSES), "--no-access-log", "--log-level", "warning", "fastapi_app:app",
        ]  # fmt: skip

    return Peer(
        f"FastAPI, {FASTAPI_PROCESSES} processes", command, "/predict", "/openapi.json", environment=model.environment
    )


def litserve(model: Model, python: Path) -> Peer:
    """LitServe with one worker, batched."""
    command = [str(python), str(SERVERS / "litserve_app.py")]
    return Peer("LitServe", lambda _: command, "/predict", "/health", environment=model.environment)


def write_mlserver(folder: Path, ports: Sequence[int], workers: int, of_model: Mapping[str, object]) -> None:
    """MLServer's two files.

    Args:
        ports: for HTTP, gRPC and metrics.
        workers: processes that run the model; 0: its own.
        of_model: the content of model-settings.json.
    """
    settings = {
        "host": "127.0.0.1", "http_port": ports[0], "grpc_port": ports[1], "metrics_port": ports[2],
        "parallel_workers": workers, "debug": False,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "model-settings.json").write_text(json.dumps(of_model), encoding="utf-8")


def mlserver(model: Model, python: Path, folder: Path) -> Peer:
    """MLServer with one parallel worker, batched adaptively."""

    def prepare(ports: Sequence[int]) -> None:
        of_model = {
            "name": "peer", "implementation": "mlserver_runtime.PeerRuntime", "max_batch_size": model.batch,
            "max_batch_time": 0.001,
        }  # fmt: skip
        write_mlserver(folder, ports, 1, of_model)

    return Peer(
        "MLServer", lambda _: [str(python.with_name("mlserver")), "start", str(folder)], "/v2/models/peer/infer",
        "/v2/models/peer/ready", ports=3, environment=model.environment, wrap=_as_tensor(model.task),
        unwrap=_from_tensor(model.task), prepare=prepare,
    )  # fmt: skip


def bentoml(model: Model, python: Path) -> Peer:
    """BentoML with a service written by hand, batched adaptively."""

    def command(ports: Sequence[int]) -> list[str]:
        return [
            str(python), "-m", "bentoml", "serve", "bentoml_service:Peer", "--working-dir", str(SERVERS),
            "--host", "127.0.0.1", "--port", str(ports[0]),
        ]  # fmt: skip

    def wrap(request: RecordedRequest) -> tuple[bytes, Mapping[str, str]]:
        feature = model.task.feature(json.loads(request.body))
        return json.dumps({"features": [feature]}).encode(), {}

    def unwrap(reply: Reply) -> Reply:
        return _answered(model.task, reply, lambda content: content[0])

    environment = {**model.environment, "BENTOML_DO_NOT_TRACK": "True"}
    return Peer("BentoML by hand", command, "/predict", "/readyz", environment=environment, wrap=wrap, unwrap=unwrap)


def triton(model: Model, python: Path, folder: Path) -> Peer:
    """Triton's python backend with a model written by hand, batched dynamically, asked with binary tensors."""
    folder = folder.resolve()
    server, repository = Tritonserver(python, folder), folder / "repository"

    def prepare(ports: Sequence[int]) -> None:
        shutil.rmtree(repository, ignore_errors=True)
        server.prepare()
        (repository / "peer" / "1").mkdir(parents=True)
        for source, name in (("triton_model", "model"), ("network", "network"), ("tasks", "tasks")):
            shutil.copy(SERVERS / f"{source}.py", repository / "peer" / "1" / f"{name}.py")
        (repository / "peer" / "config.pbtxt").write_text(_triton_config(model), encoding="utf-8")

    def command(ports: Sequence[int]) -> list[str]:
        return [*server.command(repository, ports), "--disable-auto-complete-config"]

    environment = {**model.environment, **server.environment}
    return Peer(
        "Triton by hand", command, "/v2/models/peer/infer", "/v2/models/peer/ready", environment=environment,
        wrap=partial(_as_binary, model.task), unwrap=partial(_from_binary, model.task), prepare=prepare,
    )  # fmt: skip


def _triton_config(model: Model) -> str:
    task = model.task
    kind, dims = "TYPE_STRING" if task.is_text else "TYPE_FP32", ", ".join(map(str, task.shape))
    parameters = {"folder": str(model.folder), "threads": str(model.threads)}
    return "\n".join(
        [
            'name: "peer"',
            'backend: "python"',
            f"max_batch_size: {model.batch}",
            f'input [{{ name: "features" data_type: {kind} dims: [{dims}] }}]',
            f'output [{{ name: "numbers" data_type: TYPE_FP32 dims: [{task.outputs}] }}]',
            "instance_group [{ count: 1 kind: KIND_CPU }]",
            "dynamic_batching { }",
            *(
                f'parameters {{ key: "{key}" value {{ string_value: {json.dumps(value)} }} }}'
                for key, value in parameters.items()
            ),
        ]
    )


def _as_binary(task: Task, request: RecordedRequest) -> tuple[bytes, Mapping[str, str]]:
    """A request with one binary tensor, as `tritonclient` sends it by default."""
    feature = task.feature(json.loads(request.body))
    if task.is_text:
        text = feature.encode()
        raw = struct.pack("<I", len(text)) + text
    else:
        flat = [number for row in feature for number in row] if len(task.shape) > 1 else feature
        raw = struct.pack(f"<{len(flat)}f", *flat)
    tensor = {
        "name": "features", "shape": [1, *task.shape], "datatype": "BYTES" if task.is_text else "FP32",
        "parameters": {"binary_data_size": len(raw)},
    }  # fmt: skip
    outputs = [{"name": "numbers", "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
    return head + raw, headers


def _from_binary(task: Task, reply: Reply) -> Reply:
    if reply.status != 200:
        return reply
    _, end = json.JSONDecoder().raw_decode(reply.body.decode("latin-1"))
    numbers = struct.unpack(f"<{task.outputs}f", reply.body[end:])
    return Reply(200, json.dumps(task.answer(list(numbers))).encode())


def _as_tensor(task: Task) -> Callable[[RecordedRequest], tuple[bytes, Mapping[str, str]]]:
    """A request of the Open Inference Protocol with one tensor."""

    def wrap(request: RecordedRequest) -> tuple[bytes, Mapping[str, str]]:
        feature = task.feature(json.loads(request.body))
        tensor = {
            "name": "features", "shape": [1, *task.shape], "datatype": "BYTES" if task.is_text else "FP32",
            "data": [feature] if task.is_text else feature,
        }  # fmt: skip
        return json.dumps({"inputs": [tensor]}).encode(), {}

    return wrap


def _from_tensor(task: Task) -> Callable[[Reply], Reply]:
    return lambda reply: _answered(task, reply, lambda content: content["outputs"][0]["data"])


def _answered(task: Task, reply: Reply, numbers: Callable[[Any], list[float]]) -> Reply:
    """The answer as the archive's handler gives it."""
    if reply.status != 200:
        return reply
    return Reply(200, json.dumps(task.answer(numbers(json.loads(reply.body)))).encode())
