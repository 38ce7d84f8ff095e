"""The model of benchmarks/archives/typed on servers that speak the protocol by themselves: Triton and MLServer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import ARCHIVES
from benchmarks.peers.contenders import SERVERS, Peer, PeerContender, write_mlserver
from benchmarks.peers.tritonserver import Tritonserver

MODEL = "typed"
#: The version's name on each; Triton's are numbers.
TRITON_VERSION, MLSERVER_VERSION = "1", "1.0"
#: Datatype, and sizes of each row, of every input and output.
INPUTS = {"numbers": ("FP64", 3), "count": ("INT64", 1), "is_on": ("BOOL", 1), "text": ("BYTES", 1)}
OUTPUTS = {
    "total": ("FP64", 1), "doubled": ("FP64", 3), "next": ("INT64", 1), "is_off": ("BOOL", 1), "upper": ("BYTES", 1),
    "lengths": ("BYTES", 1),
}  # fmt: skip
_CONFIG = """\
name: "{model}"
backend: "python"
max_batch_size: 4
{tensors}
instance_group [{{ count: 1 kind: KIND_CPU }}]
dynamic_batching {{ }}
"""
_TRITON_TYPES = {"BYTES": "STRING"}


@dataclass(frozen=True)
class Place:
    """Where a server answers, and what it calls the model."""

    rest: str  # host and port
    grpc: str
    model: str
    version: str
    headers: Mapping[str, str] = field(default_factory=dict)  # of every request


def triton(python: Path, folder: Path) -> Peer:
    """A stock tritonserver with the model.

    Args:
        python: of Triton's environment.
        folder: for its files.
    """
    repository = folder / "repository"

    def write(ports: Sequence[int]) -> None:
        shutil.rmtree(repository, ignore_errors=True)
        version = repository / MODEL / TRITON_VERSION
        version.mkdir(parents=True)
        shutil.copy(SERVERS / "triton_typed.py", version / "model.py")
        shutil.copy(ARCHIVES / MODEL / "answer.py", version)
        sides = {"input": INPUTS, "output": OUTPUTS}
        tensors = "\n".join(_of_config(side, *tensor) for side, those in sides.items() for tensor in those.items())
        config = _CONFIG.format(model=MODEL, tensors=tensors)
        (repository / MODEL / "config.pbtxt").write_text(config, encoding="utf-8")

    return tritonserver(python, repository, folder, write)


def tritonserver(
    python: Path,
    repository: Path,
    folder: Path,
    write: Callable[[Sequence[int]], None] = lambda ports: None,
    environment: Mapping[str, str] | None = None,
) -> Peer:
    """A stock tritonserver that serves every model of a repository, over HTTP and gRPC.

    Args:
        python: of Triton's environment.
        folder: for its backend.
        write: makes the repository.
        environment: more variables of its processes.
    """
    server = Tritonserver(python, folder)

    def prepare(ports: Sequence[int]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        server.prepare()
        write(ports)

    return Peer(
        "Triton", lambda ports: server.command(repository, ports), "", "/v2/health/ready", ports=2,
        environment={**server.environment, **(environment or {})}, prepare=prepare,
    )  # fmt: skip


def mlserver(python: Path, folder: Path) -> Peer:
    """MLServer with the model in its own process.

    Args:
        python: of MLServer's environment.
        folder: for its files.
    """

    def prepare(ports: Sequence[int]) -> None:
        of_model = {
            "name": MODEL, "implementation": "mlserver_typed.TypedRuntime", "parameters": {"version": MLSERVER_VERSION},
            "inputs": _of_metadata(INPUTS), "outputs": _of_metadata(OUTPUTS),
        }  # fmt: skip
        write_mlserver(folder, ports, 0, of_model)

    return Peer(
        "MLServer", lambda _: [str(python.with_name("mlserver")), "start", str(folder)], "",
        f"/v2/models/{MODEL}/ready", ports=3, prepare=prepare,
        environment={"PYTHONPATH": os.pathsep.join([str(SERVERS), str(ARCHIVES / MODEL)])},
    )  # fmt: skip


@contextmanager
def running(peer: Peer, folder: Path, version: str) -> Iterator[Place]:
    """The server while the block runs.

    Args:
        folder: for its log.
        version: what it calls the model's version.

    Raises:
        NodeError: it does not become ready.
    """
    contender = PeerContender(peer, folder)
    try:
        contender.start()
        rest, grpc = (f"127.0.0.1:{port}" for port in contender.ports[:2])
        yield Place(rest, grpc, MODEL, version)
    finally:
        contender.stop()


def _of_config(side: str, name: str, tensor: tuple[str, int]) -> str:
    datatype, size = tensor
    return f'{side} [{{ name: "{name}" data_type: TYPE_{_TRITON_TYPES.get(datatype, datatype)} dims: [{size}] }}]'


def _of_metadata(tensors: Mapping[str, tuple[str, int]]) -> list[dict[str, object]]:
    return [{"name": name, "datatype": datatype, "shape": [-1, size]} for name, (datatype, size) in tensors.items()]
