"""Real nodes in projects of their own: copies of this checkout's files in temporary folders, on free ports."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import yaml

from tests.support.commands import Result, hear_signals, run_command
from tests.support.java_classes import CLASSES
from tests.support.ports import free_ports
from tsctl.config.project import Project

CHECKOUT = Path(__file__).resolve().parents[2]
MODELS = ("digits", "embeddings", "breast_cancer")
COMMAND_TIMEOUT_S = 150
#: What psutil says of a process that no longer runs.
ENDED = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
#: What `empty` leaves in a project: what its node was started with, and what the node wrote.
KEPT = (".tsctl", "nodes", "config.properties", "log4j2.xml", "deployment.yaml")
#: For how long TorchServe restarts a crashing worker of `write_tiny`'s. Longer than one try and the pause before it:
RETRY_S = 5
LONGEST_TRY_S = 10
#: The JVM's second compiler takes half of a node's processor time here, and pays off on nodes that live longer. With
#: the archive of classes, the start of a JVM takes half as long.
QUICK_START = "-XX:TieredStopAtLevel=1" + ("" if " " in str(CLASSES) else f" -XX:SharedArchiveFile={CLASSES}")
#: A deployment of the archive that `write_tiny` writes, and a request to it.
TINY = {"tiny": {"default": "1.0", "versions": {"1.0": {"workers": 1}}}}
HALF = b'{"x": 0.5}'


@dataclass
class Site:
    """One project in a temporary folder, and the `tsctl` commands that are run in it."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def _outside(self) -> dict[str, str]:
        """The environment of a command: that in which the tests were started, and the site's own.

        scikit-learn, once a test has imported it, sets variables of OpenMP in this process. A node would hand them to
        its workers, which then could not be forked.
        """
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("KMP_")}
        return {**inherited, **self.environment}

    @contextmanager
    def start(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Run `tsctl` in the project without waiting; what still runs at the end of the block is killed."""
        command = [sys.executable, "-m", "tsctl.cli.main", *arguments]
        environment = {**self._outside, "TSCTL_PROJECT": str(self.root)}
        with subprocess.Popen(
            command,
            cwd=self.root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=hear_signals,
        ) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    def run(self, *arguments: str, status: int | None = 0) -> Result:
        """Run `tsctl` in the project; a status other than the one expected fails the test with what was printed."""
        ended = run_command(arguments, self.root, self._outside, COMMAND_TIMEOUT_S)
        if ended.status is None:
            pytest.fail(f"tsctl {' '.join(arguments)} did not end:\n{ended.out}\n{ended.err}")
        if status is not None and ended.status != status:
            expected = f"ended with {ended.status}, not {status}"
            pytest.fail(f"tsctl {' '.join(arguments)} {expected}:\n{ended.out}\n{ended.err}")
        return ended

    @property
    def deployment(self) -> dict[str, Any]:
        loaded: dict[str, Any] = yaml.safe_load((self.root / "deployment.yaml").read_text())
        return loaded

    def deploy(self, models: dict[str, Any]) -> None:
        """Replace the models of deployment.yaml."""
        content = {**self.deployment, "models": models}
        (self.root / "deployment.yaml").write_text(yaml.safe_dump(content, sort_keys=False))

    def configure(self, **properties: str) -> None:
        """Put properties behind those of config.properties, where they win."""
        lines = "".join(f"{name}={value}\n" for name, value in properties.items())
        path = self.root / "config.properties"
        path.write_text(path.read_text() + "\n" + lines)

    @property
    def inference(self) -> str:
        return str(self.deployment["nodes"]["local"]["inference"])

    @property
    def folder(self) -> Path:
        """The node's run-time folder."""
        return self.root / ".tsctl" / "nodes" / "local"

    @property
    def pid(self) -> int:
        return int(json.loads((self.folder / "node.json").read_text())["pid"])

    @property
    def is_running(self) -> bool:
        """Whether the node that was started last still runs."""
        return (self.folder / "node.json").is_file() and is_alive(self.pid)

    def headers(self) -> dict[str, str]:
        """The header that carries the inference token."""
        name, _, value = (self.folder / "inference.header").read_text().strip().partition(": ")
        return {name: value}

    def ask(
        self, path: str, body: bytes, media_type: str | None = "application/json", **headers: str
    ) -> requests.Response:
        """POST to the inference address, whatever the answer."""
        sent = {**self.headers(), **headers, **({"Content-Type": media_type} if media_type else {})}
        return requests.post(f"{self.inference}/predictions/{path}", data=body, headers=sent, timeout=30)

    def workers(self, model: str, version: str) -> list[int]:
        """Pids of the READY workers."""
        [state] = self.run("models", "describe", model, version).json()
        return [worker["pid"] for worker in state["workers"] if worker["status"] == "READY"]

    def sample(self, model: str, suffix: str = ".json") -> bytes:
        """The first sample of a model that ends with the suffix."""
        return sorted((self.root / "archives" / model / "samples").glob(f"*{suffix}"))[0].read_bytes()


def until(holds: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """Poll until it holds; fails the test with `what` after the deadline. Returns what held."""
    end = time.monotonic() + timeout_s
    while not (result := holds()):
        if time.monotonic() > end:
            pytest.fail(f"{what} did not come true within {timeout_s:g} s")
        time.sleep(0.1)
    return result


def throughout(holds: Callable[[], Any], seconds: float, what: str) -> None:
    """Fails the test with `what` unless it holds each time that it is asked until the time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert holds(), f"{what} was not true for {seconds:g} s"
        time.sleep(0.05)


def kill_for_good(site: Site, worker: int) -> None:
    """Kill a worker of `write_tiny`'s that cannot load again, and wait until TorchServe has given it up.

    Its log has a line for each try that failed, and the first that fails RETRY_S after the death is the last.
    """
    log = site.folder / "logs" / "ts_log.log"
    begin = log.stat().st_size
    failures = [time.monotonic()]  # the death, and when each failed try was seen
    os.kill(worker, signal.SIGKILL)

    def is_given_up() -> bool:
        now = time.monotonic()
        if log.read_bytes()[begin:].count(b"Auto recovery failed again") >= len(failures):
            failures.append(now)
        last_s = failures[-1] - failures[0]
        return last_s > RETRY_S + 0.5 or (last_s > RETRY_S and now - failures[-1] > LONGEST_TRY_S)

    until(is_given_up, 90, "TorchServe's last try")


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return bool(psutil.Process(pid).status() not in ENDED)
    except psutil.NoSuchProcess:
        return False


def processes_of(folder: Path) -> list[int]:
    """Pids of live processes whose command line or environment names a folder."""
    pids = []
    for process in psutil.process_iter(["status", "cmdline", "environ"], ad_value=()):
        texts = [*process.info["cmdline"], *dict(process.info["environ"]).values()]
        if (
            process.pid != os.getpid()
            and process.info["status"] not in ENDED
            and any(str(folder) in text for text in texts)
        ):
            pids.append(process.pid)
    return pids


def make_site(root: Path) -> Site:
    """A project with this checkout's configuration on free ports, and no models."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "archives").mkdir(exist_ok=True)
    shutil.copy(CHECKOUT / "log4j2.xml", root)
    properties = (CHECKOUT / "config.properties").read_text()
    (root / "config.properties").write_text(properties.replace("vmargs=", f"vmargs={QUICK_START} "))
    inference, management, metrics, grpc_inference, grpc_management = free_ports(5)
    node = {
        "inference": f"http://127.0.0.1:{inference}",
        "management": f"http://127.0.0.1:{management}",
        "metrics": f"http://127.0.0.1:{metrics}",
        "grpc_ports": [grpc_inference, grpc_management],
    }
    (root / "deployment.yaml").write_text(yaml.safe_dump({"nodes": {"local": node}, "models": {}}, sort_keys=False))
    return Site(root)


def quick_project(root: Path, *models: str) -> Project:
    """A project for benchmarks that a test runs: this checkout's settings but for QUICK_START, and these archives."""
    site = make_site(root)
    copy_archives(site, *models)
    return Project(site.root)


def empty(site: Site, deployment: dict[str, Any]) -> None:
    """Let the node serve nothing, and leave the project as it was made, with this deployment."""
    site.run("gateway", "stop", status=None)
    if site.is_running:
        rows = site.run("models", "list", "--json").json()
        for row in sorted(rows, key=lambda row: bool(row["default"])):
            site.run("models", "unregister", row["model"], row["version"], "--force")
    else:
        shutil.rmtree(site.folder)  # it would start with the versions that it served
    for path in (*site.root.iterdir(), *(site.root / ".tsctl").iterdir()):
        if path.name not in KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (site.root / "archives").mkdir()
    (site.root / "deployment.yaml").write_text(yaml.safe_dump(deployment, sort_keys=False))


def copy_archives(site: Site, *models: str) -> None:
    """Give the project this checkout's archives, with what their recipes wrote, as hard links where possible."""
    for model in models:
        shutil.copytree(CHECKOUT / "archives" / model, site.root / "archives" / model, copy_function=link_or_copy)


def link_or_copy(source: str, target: str) -> str:
    """A copy; of build outputs, which are never changed in place, a hard link where the disk allows it."""
    if "/.built/" not in source:
        return str(shutil.copy2(source, target))
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


TINY_HANDLER = '''
import time
from pathlib import Path

import torch

from handlers.base import ServingHandler
from handlers.schema import Schema


class Tiny(ServingHandler):
    """Multiplies a number; its settings let a test make it fail."""

    class Request(Schema):
        x: float

    def load(self):
        self.factor = self.settings.get("factor", 2.0)
        if "fail_while" in self.settings and Path(self.settings["fail_while"]).exists():
            raise RuntimeError("the file of the test is there")
        if "import_in_load" in self.settings:
            __import__(self.settings["import_in_load"])
        if "exit_in_load" in self.settings or Path(self.settings.get("exit_while", "nowhere")).exists():
            import os

            os._exit(self.settings.get("exit_in_load", 3))
        time.sleep(self.settings.get("load_s", 0))

    def preprocess(self, items):
        return torch.tensor([item.x for item in items])

    def inference(self, inputs):
        time.sleep(self.settings.get("inference_s", 0))
        if inputs.max() > self.settings.get("slow_above", float("inf")):
            time.sleep(self.settings["slow_s"])
        if inputs.max() > self.settings.get("most", float("inf")):
            raise ValueError("this number is too large")
        return inputs * self.factor

    def postprocess(self, outputs):
        long, wrong = self.settings.get("long_from", float("inf")), self.settings.get("wrong_at")
        outputs = torch.where(outputs == wrong, outputs + 1, outputs) if wrong is not None else outputs
        return [{"y": value} if value < long else "y" * int(value) for value in outputs.tolist()]

    def classify(self, answer):
        return f"y{answer['y']:g}" if self.settings.get("has_classes") else None
'''


def write_tiny(
    site: Site, model: str, versions: dict[str, dict[str, Any]], golden: float | None = None, **more: Any
) -> None:
    """An archive folder whose handler multiplies a number.

    Args:
        versions: settings by version; `factor` is what it multiplies by.
        golden: the golden answer to the sample 0.5; None: the right one.
        more: of archive.yaml.
    """
    folder = site.root / "archives" / model
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    (folder / "golden").mkdir(exist_ok=True)
    (folder / "handler.py").write_text(TINY_HANDLER)
    (folder / "samples" / "half.json").write_text('{"x": 0.5}\n')
    for version, settings in versions.items():
        answer = settings.get("factor", 2.0) * 0.5 if golden is None else golden
        (folder / "golden" / f"{version}.json").write_text(json.dumps({"half.json": {"y": answer}}))
    spec = {
        "model": model,
        "handler": "handler.py",
        "batch": {"size": 4, "max_delay_ms": 1},
        "timeouts": {"startup_s": 30, "response_s": 10, "retry_s": RETRY_S},
        "warmup": {"budget_s": 2.0},
        "versions": {version: {"settings": settings} for version, settings in versions.items()},
        **more,
    }
    (folder / "archive.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
