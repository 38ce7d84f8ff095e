"""Makes the peers of one model: their environments are installed, and one that cannot be is named with the reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.peers import contenders
from benchmarks.peers.contenders import Model, Peer, PeerContender
from benchmarks.peers.servers.tasks import Task, write_task
from benchmarks.peers.stock import NAME as STOCK
from benchmarks.peers.stock import StockContender
from handlers.contract import usable_cores
from tsctl.compare.contender import Contender
from tsctl.config.archive import Serving
from tsctl.config.project import Project
from tsctl.errors import TsctlError
from tsctl.host.progress import Progress
from tsctl.nodes.environments import ENGINES, Engine
from tsctl.nodes.install import install

FASTAPI, LITSERVE, MLSERVER = "FastAPI, 2 processes", "LitServe", "MLServer"
BENTOML, TRITON = "BentoML by hand", "Triton by hand"
_HERE = Path(__file__).parent
#: The environments of peers beside those of engines; benchmarks only, so tsctl does not know them.
ENVIRONMENTS = {
    LITSERVE: Engine("litserve", "litserve", "litserve", _HERE / "litserve.lock", 70, (3, 11), (3, 12)),
    MLSERVER: Engine("mlserver", "mlserver", "mlserver", _HERE / "mlserver.lock", 326, (3, 11), (3, 12)),
    BENTOML: ENGINES["bentoml"],
    TRITON: ENGINES["triton"],
}


def peers_of(
    project: Project,
    unpacked: Path,
    folder: Path,
    task: Task,
    serving: Serving,
    names: Sequence[str] | None,
    progress: Progress,
) -> list[Contender]:
    """The peers of one model.

    Args:
        project: in whose state the peers' environments are installed.
        unpacked: the archive's files, which all peers read.
        folder: empty.
        names: of those that are wanted; None: all.
    """
    write_task(unpacked, task)
    model = Model(unpacked, task, serving.batch.size, serving.threads or usable_cores())
    makers: dict[str, Callable[[Path, Path], Peer]] = {
        LITSERVE: lambda python, _: contenders.litserve(model, python),
        MLSERVER: lambda python, own: contenders.mlserver(model, python, own),
        BENTOML: lambda python, _: contenders.bentoml(model, python),
        TRITON: lambda python, own: contenders.triton(model, python, own),
    }
    wanted = [name for name in (STOCK, FASTAPI, *makers) if names is None or name in names]
    peers: list[Contender] = []
    for number, name in enumerate(wanted):
        own = folder / f"peer-{number}"
        own.mkdir()
        if name == STOCK:
            peers.append(StockContender(project, own, model, serving))
        elif name == FASTAPI:
            halved = replace(model, threads=max(1, model.threads // contenders.FASTAPI_PROCESSES))
            peers.append(PeerContender(contenders.fastapi(halved), own))
        else:
            peers.append(_installed(project, name, makers[name], own, progress))
    return peers


def _installed(
    project: Project, name: str, make: Callable[[Path, Path], Peer], own: Path, progress: Progress
) -> PeerContender:
    """The peer in its environment, which is installed where it is missing; or the peer with the reason why not."""
    try:
        environment = install(project, ENVIRONMENTS[name], progress)
    except TsctlError as error:
        unstarted = Peer(name, lambda _: [], "", "")
        return PeerContender(unstarted, own, f"cannot be installed: {error.summary}")
    return PeerContender(make(environment.python, own), own)
