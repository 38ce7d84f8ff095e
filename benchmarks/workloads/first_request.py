"""How much slower the first request after READY is than the ones that follow, here and on stock TorchServe.

Every round starts a node from nothing, so that the JVM is cold, and asks over a connection that is already open, so
that only the server is measured.
"""

from __future__ import annotations

import http.client
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks import BASELINES
from benchmarks.targets.own_project import (
    archived_by_torchserve,
    free_node,
    json_sample,
    own_project,
    request_headers,
    serving,
)
from tsctl.archive.store import StoredArchive, find_archive, import_archive
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.project import Project
from tsctl.errors import NodeError
from tsctl.host.progress import Progress
from tsctl.nodes.torchserve.node import Node, open_node

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
    ratios: tuple[float, ...]  # of each round
    rounds: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def measure(project: Project, deployment: DeploymentSpec, rounds: int, progress: Progress) -> list[FirstRequest]:
    """A row per model of the deployment, and one for a stock archive of digits, on a node of the benchmark's own.

    Raises:
        ArchiveError: an archive is not built.
    """
    with tempfile.TemporaryDirectory(prefix="tsctl-bench-") as folder:
        own = own_project(project, Path(folder))
        node = open_node(own, "bench", free_node())
        rows = []
        for model, target in deployment.models.items():
            archive = import_archive(own, find_archive(project, model, target.default).path)
            rows.append(_row(own, node, archive, "tsctl", json_sample(archive), rounds, progress))
        if "digits" in deployment.models:
            digits = find_archive(project, "digits", deployment.models["digits"].default)
            archive = import_archive(own, stock_digits(project, deployment, Path(folder)))
            rows.append(_row(own, node, archive, "stock BaseHandler", json_sample(digits), rounds, progress))
    return rows


def stock_digits(project: Project, deployment: DeploymentSpec, folder: Path) -> Path:
    """digits' network and weights under TorchServe's own BaseHandler, made by torch-model-archiver into the folder."""
    version = deployment.models["digits"].default
    weights = project.archives / "digits" / ".built" / version / "model.safetensors"
    handler = BASELINES / "digits_handler.py"
    extra = [weights, project.archives / "digits" / "model.py", project.archives / "digits" / "archive.yaml"]
    return archived_by_torchserve("stock_digits", version, handler, extra, folder)


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
            ratios=tuple(round(ratio, 2) for ratio in ratios),
            rounds=rounds,
        )
        step.done(f"{row.ratio:g} times")
    return row


def _round(project: Project, node: Node, archive: StoredArchive, sample: tuple[bytes, str]) -> tuple[float, float]:
    """Milliseconds of the first request and of the median of those that follow, on a node started for this round."""
    with serving(project, node, archive):
        times = _ask(node, f"/predictions/{archive.model}/{archive.version}", *sample)
    return times[0], statistics.median(times[1:])


def _ask(node: Node, path: str, body: bytes, media_type: str) -> list[float]:
    """Milliseconds of each of 1 + FOLLOWING requests over one connection that was opened before."""
    address = urlsplit(node.spec.inference)
    headers = request_headers(node, media_type)
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
