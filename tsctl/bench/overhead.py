"""What everything around a model costs: a linear layer under closed-loop load, by several ways in one run.

Every way is measured for the same time on a warm node, and the ways take turns, so that what else happens on the
machine falls on all of them. The load generator wrk shares the machine's cores with the node.
"""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from tsctl.archive.build import build_version
from tsctl.archive.golden import make_golden
from tsctl.archive.spec import read_archive_spec
from tsctl.archive.store import StoredArchive, import_archive
from tsctl.bench.own_node import archived_by_torchserve, free_node, own_project, request_headers, serving
from tsctl.errors import NodeError, TsctlError
from tsctl.node.connection import Node, open_node
from tsctl.progress import Progress
from tsctl.project import Project

CONNECTIONS = 128
#: Load before a measurement: the JVM compiles its hot paths only under load.
WARMING_S = 8
STOCK = "BaseHandler, stock TorchServe"


@dataclass(frozen=True)
class Load:
    """One way under load; each figure is the median over the rounds."""

    way: str
    requests_s: float
    p50_ms: float
    p99_ms: float
    failed: int  # answers that are no 200, and socket errors, in all rounds
    times_stock: float  # requests_s over those of STOCK in the same run

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class _Round:
    requests_s: float
    p50_ms: float
    p99_ms: float
    failed: int


def measure(project: Project, rounds: int, seconds: int, progress: Progress) -> list[Load]:
    """A row for each way.

    Raises:
        TsctlError: wrk is missing, or a way does not serve.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        raise TsctlError("wrk is not installed", "Install it, for example with 'apt-get install wrk'.")
    with tempfile.TemporaryDirectory(prefix="tsctl-bench-") as name:
        own = own_project(project, Path(name))
        node = open_node(own, "bench", free_node())
        ways = _ways(project, own, progress)
        found: dict[str, list[_Round]] = {way: [] for way in ways}
        for number in range(rounds):
            for way, archive in ways.items():
                with progress.step(f"round {number + 1} of {rounds}: {way}") as step, serving(own, node, archive):
                    found[way].append(_load(wrk, own, node, archive, seconds))
                    step.done(f"{found[way][-1].requests_s:.0f} requests/s")
    return _rows(found)


def _ways(project: Project, own: Project, progress: Progress) -> dict[str, StoredArchive]:
    """The archive of each way, in the store of the benchmark's own project."""
    folder = own.archives / "linear"
    shutil.copytree(project.root / "benchmarks" / "linear", folder)
    spec = read_archive_spec(folder / "archive.yaml")
    built = {}
    with progress.step("building the linear layer's archives") as step:
        for version in spec.versions:
            make_golden(folder, spec, version, step.note)
            built[version] = build_version(own, folder, spec, version, step.note).archive
        config = folder / "model-config.yaml"
        stock = {"minWorkers": 1, "maxWorkers": 1, "batchSize": spec.batch.size, "maxBatchDelay": 1}
        config.write_text(yaml.safe_dump({**stock, "startupTimeout": 60, "responseTimeout": 60, "jobQueueSize": 2000}))
        extra = [folder / ".built" / "1.0" / "model.safetensors", folder / "model.py"]
        made = archived_by_torchserve("linear", "stock", folder / "stock_handler.py", extra, own.root, config)
        return {
            "ServingHandler": built["1.0"],
            "ServingHandler, stock wire": built["1.0.stock_wire"],
            STOCK: import_archive(own, made),
        }


def _load(wrk: str, own: Project, node: Node, archive: StoredArchive, seconds: int) -> _Round:
    body = (own.archives / "linear" / "samples" / "row.json").read_text().strip()
    headers = request_headers(node, "application/json")
    script = own.root / "post.lua"
    lines = [f"wrk.headers[{name!r}] = {value!r}" for name, value in headers.items()]
    script.write_text("\n".join(["wrk.method = 'POST'", f"wrk.body = {body!r}", *lines]) + "\n")
    script.chmod(0o600)
    url = f"{node.spec.inference}/predictions/{archive.model}/{archive.version}"
    _run(wrk, script, url, WARMING_S)
    return parse_wrk(_run(wrk, script, url, seconds))


def _run(wrk: str, script: Path, url: str, seconds: int) -> str:
    command = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "--timeout", "10s", "-s", str(script), url]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 60)
    if ended.returncode != 0:
        raise NodeError(f"wrk failed: {(ended.stderr or ended.stdout).strip()[-300:]}")
    return ended.stdout


def parse_wrk(text: str) -> _Round:
    """The figures in what wrk printed.

    Raises:
        ValueError: a figure is missing.
    """
    failed = sum(int(number) for number in re.findall(r"Non-2xx or 3xx responses: (\d+)", text))
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    failed += sum(map(int, errors.groups())) if errors else 0
    return _Round(
        requests_s=float(_figure(text, r"Requests/sec:\s+([\d.]+)")),
        p50_ms=_milliseconds(_figure(text, r"50%\s+(\S+)")),
        p99_ms=_milliseconds(_figure(text, r"99%\s+(\S+)")),
        failed=failed,
    )


def _figure(text: str, pattern: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise ValueError(f"wrk printed nothing like {pattern}")
    return match[1]


def _milliseconds(time: str) -> float:
    match = re.fullmatch(r"([\d.]+)(us|ms|s|m)", time)
    if match is None:
        raise ValueError(f"{time!r} is no time of wrk's")
    return float(match[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}[match[2]]


def _rows(found: dict[str, list[_Round]]) -> list[Load]:
    speed = {way: statistics.median(one.requests_s for one in rounds) for way, rounds in found.items()}
    return [
        Load(
            way=way,
            requests_s=round(speed[way], 1),
            p50_ms=round(statistics.median(one.p50_ms for one in rounds), 2),
            p99_ms=round(statistics.median(one.p99_ms for one in rounds), 2),
            failed=sum(one.failed for one in rounds),
            times_stock=round(speed[way] / speed[STOCK], 2),
        )
        for way, rounds in found.items()
    ]
