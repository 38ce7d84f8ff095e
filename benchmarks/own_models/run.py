"""Takes each model from its file to an answer through the gateway and through a rollout, by a user's commands.

Each has a project of its own in an empty folder, on the ports of a new project, so nothing else may use these.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
import yaml

from benchmarks.own_models.files import MODELS, OwnModel
from tsctl.config.project import PROJECT_VARIABLE
from tsctl.errors import NodeError
from tsctl.host.progress import Progress

LOCAL = "http://127.0.0.1:8000/predictions"
POLICY = {
    "steps": [20, 50, 100],
    "hold_s": 1,
    "min_requests": 20,
    "signals": ["errors"],
    "settle_s": 0,
    "max_hold_s": 120,
}
COMMAND_S = 300.0


@dataclass
class Way:
    """What it took."""

    key: str
    words: str
    commands: list[str] = field(default_factory=list)  # until the answer
    edited: int = 0  # files that the user writes or changes by hand
    seconds: float = 0.0  # of all commands until the answer
    answer: str = ""
    rollout_s: float | None = None
    failed: str = ""  # why it ended before


def measure(only: Collection[str], progress: Progress) -> list[Way]:
    """One after the other.

    Args:
        only: their keys; empty: all.
    """
    ways = []
    for model in MODELS:
        if only and model.key not in only:
            continue
        with progress.step(model.key) as step, tempfile.TemporaryDirectory(prefix="tsctl-own-") as place:
            way = Way(model.key, model.words)
            try:
                _take(model, way, Path(place))
            except (NodeError, requests.RequestException) as error:
                way.failed = str(error)
            step.done(way.failed or f"{len(way.commands)} commands, {way.seconds:.1f} s")
        ways.append(way)
    return ways


def _take(model: OwnModel, way: Way, place: Path) -> None:
    files, project = place / "files", place / "project"
    files.mkdir()
    project.mkdir()
    path = model.write(files, "1.0")
    sample = None
    if model.sample is not None:
        name, content = model.sample
        sample = files / name
        sample.write_bytes(content)
    try:
        _init(model, way, project, path, sample)
        _run(way, project, "up")
        body, media_type = _request(model, project)
        begin = time.perf_counter()
        answered = _ask(project, model, body, media_type)
        way.seconds += time.perf_counter() - begin
        way.commands.append("curl")
        if answered.status_code != 200:
            raise NodeError(f"status {answered.status_code}: {answered.text[:200]}")
        way.answer = answered.text[:60]
        way.rollout_s = _release(model, project, files, body, media_type)
    finally:
        _tsctl(project, "down")


def _init(model: OwnModel, way: Way, project: Path, path: Path, sample: Path | None) -> None:
    more = ["--sample", str(sample)] if sample is not None else []
    if model.network:
        network = path.with_name("net.py")
        network.write_text(model.network)
        way.edited += 1
        more += ["--network", str(network)]
    _run(way, project, "init", "--from", str(path), "--name", model.key, *more)


def _request(model: OwnModel, project: Path) -> tuple[bytes, str]:
    """The user's sample, or the one that `tsctl init` wrote."""
    if model.sample is not None:
        return model.sample[1], model.media_type
    [written] = (project / "archives" / model.key / "samples").iterdir()
    return written.read_bytes(), model.media_type


def _release(model: OwnModel, project: Path, files: Path, body: bytes, media_type: str) -> float:
    """Seconds of a rollout of another version with the same answers, under load; raises NodeError where it fails."""
    folder = project / "archives" / model.key
    deployment = _deployment(project)
    deployment["rollout"] = POLICY
    _write(project, deployment)
    if (folder / "archive.yaml").is_file():
        spec = yaml.safe_load((folder / "archive.yaml").read_text())
        spec["versions"]["1.1"] = {"batch": {"max_delay_ms": 2}}
        (folder / "archive.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
        shutil.copy2(folder / "golden" / "1.0.json", folder / "golden" / "1.1.json")
        _checked(project, "archive", "build", model.key)
    else:
        second = files / "second"
        second.mkdir()
        archive = model.write(second, "1.1")
        _checked(project, "archive", "add", str(archive))
    with _load(project, model, body, media_type):
        begin = time.perf_counter()
        _checked(project, "rollout", "start", model.key, "1.1")
        return time.perf_counter() - begin


@contextmanager
def _load(project: Path, model: OwnModel, body: bytes, media_type: str) -> Iterator[None]:
    """Requests of two clients while the block runs."""
    over = threading.Event()

    def ask() -> None:
        with requests.Session() as session:
            while not over.is_set():
                _ask(project, model, body, media_type, session)
                time.sleep(0.01)

    clients = [threading.Thread(target=ask) for _ in range(2)]
    for client in clients:
        client.start()
    try:
        yield
    finally:
        over.set()
        for client in clients:
            client.join()


def _ask(project: Path, model: OwnModel, body: bytes, media_type: str, session: Any = requests) -> requests.Response:
    name, _, value = (project / ".tsctl" / "gateway" / "local.header").read_text().strip().partition(": ")
    headers = {name: value, "content-type": media_type}
    response: requests.Response = session.post(f"{LOCAL}/{model.key}", data=body, headers=headers, timeout=60)
    return response


def _run(way: Way, project: Path, *arguments: str) -> None:
    begin = time.perf_counter()
    _checked(project, *arguments)
    way.seconds += time.perf_counter() - begin
    way.commands.append(f"tsctl {' '.join(arguments[:2])}")


def _checked(project: Path, *arguments: str) -> None:
    ended = _tsctl(project, *arguments)
    if ended.returncode:
        last = " ".join((ended.stderr or ended.stdout).split())[-300:]
        raise NodeError(f"tsctl {' '.join(arguments[:2])} ended with {ended.returncode}: {last}")


def _tsctl(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, PROJECT_VARIABLE: str(project)} if arguments[0] != "init" else dict(os.environ)
    return subprocess.run(
        [sys.executable, "-m", "tsctl.cli.main", *arguments],
        cwd=project, env=environment, capture_output=True, text=True, timeout=COMMAND_S, check=False,
    )  # fmt: skip


def _deployment(project: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((project / "deployment.yaml").read_text())
    return content


def _write(project: Path, deployment: dict[str, Any]) -> None:
    (project / "deployment.yaml").write_text(yaml.safe_dump(deployment, sort_keys=False))
