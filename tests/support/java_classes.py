"""One archive of TorchServe's classes, which the JVMs of all tests map into memory (class data sharing).

Without it each JVM reads, checks and links 4,800 classes, in nearly half of a node's processor time in a test. The
archive is made once for a checkout, in a few seconds, and again for another Java or TorchServe. A JVM whose class path
is another than the archive's starts without it.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import requests

from tests.support.checkout import CHECKOUT
from tests.support.ports import free_ports
from tsctl.host.wait import wait_until
from tsctl.nodes.torchserve.java import find_java
from tsctl.nodes.torchserve.process import class_path

FOLDER = CHECKOUT / ".tsctl" / "tests"
#: A JVM that finds no such file starts without it.
CLASSES = FOLDER / "classes.jsa"
START_S, MAKE_S = 60.0, 120.0


def make_class_archive() -> None:
    """Make CLASSES unless it is there, while other test processes wait for it."""
    java = find_java().path
    files = (java, *sorted(class_path().parent.glob("*.jar")))
    made_of = "".join(f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}\n" for file in files)
    FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
    inputs = CLASSES.with_suffix(".inputs")
    with (FOLDER / "classes.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if CLASSES.is_file() and inputs.is_file() and inputs.read_text() == made_of:
            return
        inputs.unlink(missing_ok=True)
        _make(java, CLASSES)
        inputs.write_text(made_of)


def _make(java: Path, archive: Path) -> None:
    """Have a JVM write the archive of the classes that another one loaded while it started TorchServe."""
    with tempfile.TemporaryDirectory() as folder:
        classes, written = Path(folder, "classes"), archive.with_suffix(".new")
        _start_torchserve([str(java), f"-XX:DumpLoadedClassList={classes}"], Path(folder))
        command = [
            str(java), "-Xshare:dump", f"-XX:SharedClassListFile={classes}", f"-XX:SharedArchiveFile={written}",
            "-cp", str(class_path()),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=MAKE_S)
        written.replace(archive)


def _start_torchserve(java: list[str], folder: Path) -> None:
    """Start TorchServe with a model without workers, and end it."""
    inference, management, metrics, *grpc = free_ports(5)
    properties = {
        "inference_address": f"http://127.0.0.1:{inference}",
        "management_address": f"http://127.0.0.1:{management}",
        "metrics_address": f"http://127.0.0.1:{metrics}",
        "grpc_inference_port": grpc[0],
        "grpc_management_port": grpc[1],
        "disable_token_authorization": "true",
        "enable_model_api": "true",
        "disable_system_metrics": "true",
        "metrics_mode": "prometheus",
        "allowed_urls": "file:///.*",
    }
    (folder / "config.properties").write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
    command = [
        *java, f"-Dmodel_server_home={class_path().parents[2]}", f"-Djava.io.tmpdir={folder}",
        f"-Dlog4j2.configurationFile={CHECKOUT / 'log4j2.xml'}", "-Dtsctl.console=off", "-cp", str(class_path()),
        "org.pytorch.serve.ModelServer", "--python", sys.executable, "-f", str(folder / "config.properties"),
        "-s", str(CHECKOUT / "archives" / "store"),
    ]  # fmt: skip
    environment = {**os.environ, "LOG_LOCATION": str(folder), "METRICS_LOCATION": str(folder)}
    output = folder / "output"
    with (
        output.open("wb") as stdout,
        subprocess.Popen(command, cwd=folder, env=environment, stdout=stdout, stderr=subprocess.STDOUT) as process,
    ):
        address = f"http://127.0.0.1:{management}/models"

        def answers() -> bool:
            assert process.poll() is None, f"TorchServe ended:\n{output.read_text()[-2000:]}"
            try:
                return requests.get(address, timeout=5).ok
            except requests.ConnectionError:
                return False

        try:
            assert wait_until(answers, START_S, 0.1), f"TorchServe does not answer:\n{output.read_text()[-2000:]}"
            for model in sorted((CHECKOUT / "archives" / "store").glob("*.mar"))[:1]:
                requests.post(address, params={"url": model.name, "initial_workers": "0"}, timeout=START_S)
        finally:
            process.terminate()
            process.wait(START_S)
