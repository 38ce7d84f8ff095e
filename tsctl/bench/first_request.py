"""How much slower the first request after READY is than the ones that follow, here and on stock TorchServe.

Every round starts a node from nothing, so that the JVM is cold, and asks over a connection that is already open, so
that only the server is measured.
"""

from __future__ import annotations

import http.client
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tsctl import versions
from tsctl.archive.store import StoredArchive, find_archive, import_archive
from tsctl.deployment import DeploymentSpec
from tsctl.errors import ArchiveError, NodeError
from tsctl.node.connection import Node
from tsctl.node.start import start_node, stop_node
from tsctl.progress import Progress
from tsctl.project import Project

FOLLOWING = 100


@dataclass(frozen=True)
class FirstRequest:
    """One model: milliseconds of the first request and of the median of the next hundred, and their ratio, each the
    median over the rounds."""

    model: str
    handler: str
    first_ms: float
    median_ms: float
    ratio: float
    worst_ratio: float
    rounds: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def measure(
    project: Project, deployment: DeploymentSpec, node: Node, rounds: int, progress: Progress
) -> list[FirstRequest]:
    """A row per model of the deployment, and one for a stock archive of digits.

    Raises:
        NodeError: the node runs already: it must start cold in every round.
    """
    if node.pid:
        raise NodeError(f"node {node.name} runs", "Stop it first with 'make down': every round starts a cold one.")
    rows = []
    for model, target in deployment.models.items():
        archive = find_archive(project, model, target.default)
        rows.append(_row(project, node, archive, "tsctl", rounds, progress))
    if "digits" in deployment.models:
        archive = import_archive(project, stock_digits(project, deployment))
        rows.append(_row(project, node, archive, "stock BaseHandler", rounds, progress))
        archive.path.unlink()
    return rows


def stock_digits(project: Project, deployment: DeploymentSpec) -> Path:
    """digits' network and weights under TorchServe's own BaseHandler, made by torch-model-archiver."""
    version = deployment.models["digits"].default
    folder = Path(tempfile.mkdtemp(prefix="tsctl-stock-"))
    weights = project.archives / "digits" / ".built" / version / "model.safetensors"
    command = [
        sys.executable, "-m", "model_archiver.model_packaging", "--model-name", "stock_digits", "--version", version,
        "--handler", str(Path(__file__).parent / "stock" / "digits_handler.py"), "--extra-files",
        f"{weights},{project.archives / 'digits' / 'model.py'},{project.archives / 'digits' / 'archive.yaml'}",
        "--export-path", str(folder),
    ]  # fmt: skip
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise ArchiveError(f"torch-model-archiver failed: {made.stderr.strip()[-500:]}")
    return folder / "stock_digits.mar"


def _row(
    project: Project, node: Node, archive: StoredArchive, handler: str, rounds: int, progress: Progress
) -> FirstRequest:
    with progress.step(f"{archive.model} ({handler})") as step:
        pairs = []
        for number in range(rounds):
            step.note(f"round {number + 1} of {rounds}")
            pairs.append(_round(project, node, archive, handler))
        ratios = [first / median for first, median in pairs]
        row = FirstRequest(
            model=archive.model,
            handler=handler,
            first_ms=round(statistics.median(first for first, _ in pairs), 2),
            median_ms=round(statistics.median(median for _, median in pairs), 2),
            ratio=round(statistics.median(ratios), 2),
            worst_ratio=round(max(ratios), 2),
            rounds=rounds,
        )
        step.done(f"{row.ratio:g} times")
    return row


def _round(project: Project, node: Node, archive: StoredArchive, handler: str) -> tuple[float, float]:
    """Milliseconds of the first request and of the median of those that follow, on a node started for this round."""
    quiet = Progress(_silent())
    start_node(project, node, quiet)
    node.paths.pending_restore.unlink(missing_ok=True)
    try:
        versions.register(node, archive, 1, lambda _: None)
        samples = versions.read_samples(archive.path) or versions.read_samples(
            find_archive(project, "digits", archive.version).path
        )
        body, media_type = next((body, kind) for _, body, kind in samples if kind == "application/json")
        times = _ask(node, f"/predictions/{archive.model}/{archive.version}", body, media_type)
    finally:
        stop_node(node, quiet)
    return times[0], statistics.median(times[1:])


def _ask(node: Node, path: str, body: bytes, media_type: str) -> list[float]:
    """Milliseconds of each of 1 + FOLLOWING requests over one connection that was opened before."""
    address = urlsplit(node.spec.inference)
    name, _, value = node.paths.inference_header.read_text().strip().partition(": ")
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    connection.connect()
    times = []
    for _ in range(1 + FOLLOWING):
        begin = time.perf_counter()
        connection.request("POST", path, body, {name: value, "Content-Type": media_type})
        answer = connection.getresponse()
        answer.read()
        times.append((time.perf_counter() - begin) * 1000)
        if answer.status != 200:
            raise NodeError(f"{path} answered {answer.status}")
    connection.close()
    return times


def _silent() -> Any:
    from rich.console import Console

    return Console(quiet=True)
