"""How much slower the first request after READY is than the ones that follow, here and on stock TorchServe.

Every round starts a node from nothing, so that the JVM is cold, and asks over a connection that is already open, so
that only the server is measured.
"""

from __future__ import annotations

import contextlib
import http.client
import shutil
import socket
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
from tsctl.deployment import DeploymentSpec, NodeSpec
from tsctl.errors import ArchiveError, NodeError
from tsctl.node.connection import Node, open_node
from tsctl.node.start import start_node, stop_node
from tsctl.node.tokens import read_tokens
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


def measure(project: Project, deployment: DeploymentSpec, rounds: int, progress: Progress) -> list[FirstRequest]:
    """A row per model of the deployment, and one for a stock archive of digits, on a node of the benchmark's own.

    Raises:
        ArchiveError: an archive is not built.
    """
    with tempfile.TemporaryDirectory(prefix="tsctl-bench-") as folder:
        own = _own_project(project, Path(folder))
        node = open_node(own, "bench", _free_node())
        rows = []
        for model, target in deployment.models.items():
            archive = import_archive(own, find_archive(project, model, target.default).path)
            rows.append(_row(own, node, archive, "tsctl", _json_sample(archive), rounds, progress))
        if "digits" in deployment.models:
            digits = find_archive(project, "digits", deployment.models["digits"].default)
            archive = import_archive(own, stock_digits(project, deployment, Path(folder)))
            rows.append(_row(own, node, archive, "stock BaseHandler", _json_sample(digits), rounds, progress))
    return rows


def _own_project(project: Project, folder: Path) -> Project:
    """A project for this run alone, with the node settings of the real one."""
    own = Project(folder)
    own.store.mkdir(parents=True)
    shutil.copyfile(project.config_properties, own.config_properties)
    if (project.root / "log4j2.xml").is_file():
        shutil.copyfile(project.root / "log4j2.xml", own.root / "log4j2.xml")
    return own


def _free_node() -> NodeSpec:
    """A node on ports that nothing listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(5)]
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        ports = [opened.getsockname()[1] for opened in sockets]
    inference, management, metrics = (f"http://127.0.0.1:{port}" for port in ports[:3])
    return NodeSpec(inference=inference, management=management, metrics=metrics, grpc_ports=(ports[3], ports[4]))


def _json_sample(archive: StoredArchive) -> tuple[bytes, str]:
    """Body and media type of the archive's first sample that is JSON, else of its first."""
    samples = versions.read_samples(archive.path)
    if not samples:
        raise ArchiveError(f"{archive.path.name} has no sample to ask it with")
    _, body, media_type = next((sample for sample in samples if sample[2] == "application/json"), samples[0])
    return body, media_type


def stock_digits(project: Project, deployment: DeploymentSpec, folder: Path) -> Path:
    """digits' network and weights under TorchServe's own BaseHandler, made by torch-model-archiver into the folder."""
    version = deployment.models["digits"].default
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
    project: Project,
    node: Node,
    archive: StoredArchive,
    handler: str,
    sample: tuple[bytes, str],
    rounds: int,
    progress: Progress,
) -> FirstRequest:
    with progress.step(f"{archive.model} ({handler})") as step:
        pairs = []
        for number in range(rounds):
            step.note(f"round {number + 1} of {rounds}")
            pairs.append(_round(project, node, archive, sample))
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


def _round(project: Project, node: Node, archive: StoredArchive, sample: tuple[bytes, str]) -> tuple[float, float]:
    """Milliseconds of the first request and of the median of those that follow, on a node started for this round."""
    quiet = Progress(_silent())
    start_node(project, node, quiet)
    node.paths.pending_restore.unlink(missing_ok=True)
    try:
        versions.register(node, archive, 1, lambda _: None)
        times = _ask(node, f"/predictions/{archive.model}/{archive.version}", *sample)
    finally:
        stop_node(node, quiet)
    return times[0], statistics.median(times[1:])


def _ask(node: Node, path: str, body: bytes, media_type: str) -> list[float]:
    """Milliseconds of each of 1 + FOLLOWING requests over one connection that was opened before."""
    address = urlsplit(node.spec.inference)
    headers = {"Content-Type": media_type}
    if node.key_file is not None:
        headers |= read_tokens(node.key_file).inference.header
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    connection.connect()
    times = []
    for _ in range(1 + FOLLOWING):
        begin = time.perf_counter()
        connection.request("POST", path, body, headers)
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
