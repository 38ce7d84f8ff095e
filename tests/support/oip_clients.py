"""Clients of the Open Inference Protocol, as other projects wrote them, behind one interface for the tests."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import grpc
import numpy as np
import requests
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from benchmarks.protocol.servers import Place
from handlers.contract import GRPC_CODES
from tests.support.sites import CHECKOUT
from tsctl.config.project import Project
from tsctl.gateway.headers import KEY_HEADER
from tsctl.host.progress import Progress
from tsctl.nodes.environments import Engine
from tsctl.nodes.install import install

#: KServe's client, which takes 300 MB with all that it needs; the tests make its environment once in a checkout.
KSERVE = Engine(
    "kserve", package="kserve", module="kserve", lock=Path(__file__).parent / "kserve.lock",
    megabytes=320, first_python=(3, 11), last_python=(3, 13),
)  # fmt: skip
_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
Inputs = Mapping[str, np.ndarray]
Outputs = dict[str, list[Any]]


class Refused(Exception):
    """The server refused; the code is gRPC's, also where the client speaks REST."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message


def refused(status: int, message: str) -> Refused:
    """The refusal of a REST server."""
    return Refused(_NAMES[GRPC_CODES[status]], message)


class Client(Protocol):
    """What every client can do; without a version, the server chooses one."""

    def live(self) -> bool: ...
    def ready(self) -> bool: ...
    def model_ready(self, model: str) -> bool: ...
    def infer(self, model: str, inputs: Inputs, version: str = "") -> Outputs: ...
    def close(self) -> None: ...


class Knowing(Client, Protocol):
    """A client that asks for metadata as well, and names versions everywhere."""

    def model_ready(self, model: str, version: str = "") -> bool: ...
    def server_metadata(self) -> Any: ...
    def model_metadata(self, model: str, version: str = "") -> Any: ...
    def index(self) -> Any: ...


def make_client(name: str, place: Place) -> Knowing:
    """A client by its name: plain or triton-KIND."""
    library, _, kind = name.partition("-")
    return Triton(place, kind) if library == "triton" else Plain(place)


def datatype(array: np.ndarray) -> str:
    return {"f4": "FP32", "f8": "FP64", "i8": "INT64", "b1": "BOOL", "O": "BYTES"}[array.dtype.str[1:]]


def path_of(model: str, version: str) -> str:
    return f"/v2/models/{model}" + (f"/versions/{version}" if version else "")


class Plain:
    """JSON as the protocol's page shows it, without a client."""

    def __init__(self, place: Place) -> None:
        self._base, self._headers = f"http://{place.rest}", place.headers

    def live(self) -> bool:
        return bool(self._ask("GET", "/v2/health/live")["live"])

    def ready(self) -> bool:
        return bool(self._ask("GET", "/v2/health/ready")["ready"])

    def model_ready(self, model: str, version: str = "") -> bool:
        return bool(self._ask("GET", f"{path_of(model, version)}/ready")["ready"])

    def server_metadata(self) -> Any:
        return self._ask("GET", "/v2")

    def model_metadata(self, model: str, version: str = "") -> Any:
        return self._ask("GET", path_of(model, version))

    def index(self) -> Any:
        return self._ask("POST", "/v2/repository/index")

    def infer(self, model: str, inputs: Inputs, version: str = "") -> Outputs:
        tensors = [
            {"name": name, "shape": array.shape, "datatype": datatype(array), "data": array.tolist()}
            for name, array in inputs.items()
        ]
        outputs = self._ask("POST", f"{path_of(model, version)}/infer", {"inputs": tensors})["outputs"]
        return {output["name"]: np.reshape(output["data"], output["shape"]).tolist() for output in outputs}

    def close(self) -> None:
        """It holds nothing."""

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = requests.request(method, self._base + path, json=body, headers=self._headers, timeout=30)
        if answer.status_code != 200:
            raise refused(answer.status_code, answer.json().get("detail", ""))
        return answer.json()


class Triton:
    """tritonclient over gRPC, or over HTTP with tensors as JSON, in binary, or mixed: inputs in binary, outputs not."""

    def __init__(self, place: Place, kind: str) -> None:
        module = tritonclient.grpc if kind == "grpc" else tritonclient.http
        self._is_grpc, self._is_binary, self._module = kind == "grpc", kind != "json", module
        self._client = module.InferenceServerClient(place.grpc if self._is_grpc else place.rest)
        self._is_json = kind in ("json", "mixed")  # of the outputs
        self._more: dict[str, Any] = {"headers": dict(place.headers)}

    def live(self) -> bool:
        return bool(self._ask(self._client.is_server_live))

    def ready(self) -> bool:
        return bool(self._ask(self._client.is_server_ready))

    def model_ready(self, model: str, version: str = "") -> bool:
        return bool(self._ask(self._client.is_model_ready, model, version))

    def server_metadata(self) -> Any:
        return self._as_json(self._client.get_server_metadata)

    def model_metadata(self, model: str, version: str = "") -> Any:
        said = self._as_json(self._client.get_model_metadata, model, version)
        for tensor in (*said["inputs"], *said["outputs"]):
            tensor["shape"] = [int(size) for size in tensor["shape"]]  # protocol buffers write long numbers as text
        return said

    def index(self) -> Any:
        said = self._as_json(self._client.get_model_repository_index)
        return [{"reason": "", **model} for model in said.get("models", [])] if self._is_grpc else said

    def infer(self, model: str, inputs: Inputs, version: str = "") -> Outputs:
        tensors = []
        for name, array in inputs.items():
            tensor = self._module.InferInput(name, array.shape, datatype(array))
            tensor.set_data_from_numpy(array, **({} if self._is_grpc else {"binary_data": self._is_binary}))
            tensors.append(tensor)
        names = [output["name"] for output in self.model_metadata(model)["outputs"]]
        wanted = [self._module.InferRequestedOutput(name, False) for name in names] if self._is_json else None
        result = self._ask(self._client.infer, model, tensors, outputs=wanted, model_version=version)
        return {name: texts(result.as_numpy(name).tolist()) for name in names}

    def _as_json(self, method: Callable[..., Any], *arguments: Any) -> Any:
        return self._ask(method, *arguments, **({"as_json": True} if self._is_grpc else {}))

    def _ask(self, method: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        try:
            return method(*arguments, **more, **self._more)
        except InferenceServerException as error:
            status = error.status() or ""
            if status.isdigit():
                raise refused(int(status), error.message()) from None
            raise Refused(status.removeprefix("StatusCode."), error.message()) from None

    def close(self) -> None:
        self._client.close()


def texts(value: Any) -> Any:
    """The value with texts in place of bytes."""
    if isinstance(value, list):
        return [texts(each) for each in value]
    return value.decode() if isinstance(value, bytes) else value


@dataclass(frozen=True)
class Kserve:
    """KServe's client in a process of its own; `kind` is rest, rest-binary or grpc."""

    process: subprocess.Popen[str]
    place: Place
    kind: str

    def live(self) -> bool:
        return bool(self._ask(do="live")["is"])

    def ready(self) -> bool:
        return bool(self._ask(do="ready")["is"])

    def model_ready(self, model: str) -> bool:
        return bool(self._ask(do="model_ready", model=model)["is"])

    def infer(self, model: str, inputs: Inputs, version: str = "") -> Outputs:
        tensors = {name: (datatype(a), a.shape, a.flatten().tolist()) for name, a in inputs.items()}
        said = self._ask(do="infer", model=model, version=version, inputs=tensors, is_binary=self.kind != "rest")
        assert said["id"] == "mine"
        outputs: Outputs = said["outputs"]
        return outputs

    def close(self) -> None:
        """The process holds its connections until it ends."""

    def _ask(self, **asked: Any) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        protocol = self.kind.partition("-")[0]
        address = self.place.grpc if protocol == "grpc" else self.place.rest
        asked["to"] = [protocol, address, self.place.headers.get(KEY_HEADER, "none")]
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        said = json.loads(self.process.stdout.readline())
        if "status" in said:
            raise refused(said["status"], said["message"])
        if "code" in said:
            raise Refused(said["code"], said["message"])
        return said


@contextmanager
def kserve_process() -> Iterator[subprocess.Popen[str]]:
    """The process; importing KServe takes it seconds."""
    environment = install(Project(CHECKOUT), KSERVE, Progress())
    program = Path(__file__).with_name("kserve_client.py")
    with subprocess.Popen(
        [environment.python, "-W", "ignore", program],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr, text=True, env={"HOME": "/nonexistent"},
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.stdin.close()
            process.wait(10)
