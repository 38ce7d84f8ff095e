"""Without tsctl: `torchserve --start` with this configuration, and a stock archive on a node of tsctl's."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.support.sites import Site, is_alive, processes_of, until, write_tiny
from tests.support.stock import STOCK_HANDLER


@pytest.fixture
def by_hand(site: Site, tmp_path: Path) -> Iterator[str]:
    """The inference address of a node that `torchserve --start` started in the project, with its archives."""
    for factor in (5.0, 2.0):  # two builds of one version
        write_tiny(site, "tiny", {"1.0": {"factor": factor}})
        site.run("archive", "build")
    store = site.root / "archives" / "store"
    [built] = store.glob("tiny-*.mar")
    (store / "cut-1.0-0123456789ab.mar").write_bytes(built.read_bytes()[:2000])
    (store / "empty.mar").touch()
    node = site.deployment["nodes"]["local"]
    own = {f"{name}_address": node[name] for name in ("inference", "management", "metrics")}
    own["grpc_inference_port"], own["grpc_management_port"] = map(str, node["grpc_ports"])
    site.configure(**own)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    tmp = tmp_path / "tmp"
    tmp.mkdir()
    command = [
        str(Path(sys.executable).parent / "torchserve"), "--start", "--ts-config", "config.properties",
        "--model-store", "archives/store",
    ]  # fmt: skip
    subprocess.run(
        command, cwd=site.root, env={**environment, "TMPDIR": str(tmp), "TEMP": str(tmp)}, check=True, timeout=60,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    pid = int((tmp / ".model_server.pid").read_text())
    try:
        yield site.inference
    finally:
        os.kill(pid, signal.SIGTERM)
        until(lambda: not is_alive(pid), 30, "the end of the node")
        until(lambda: processes_of(tmp) == [], 20, "the end of its workers")


def test_torchserve_by_hand_serves_the_current_archives_beside_broken_ones(site: Site, by_hand: str) -> None:
    key_file = site.root / "key_file.json"
    until(key_file.is_file, 30, "the key file")

    def ask() -> requests.Response | None:
        try:
            key = json.loads(key_file.read_text())["inference"]["key"]
            headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
            answer = requests.post(f"{by_hand}/predictions/tiny", data=b'{"x": 0.5}', headers=headers, timeout=10)
        except (requests.RequestException, ValueError):  # it does not listen or answer yet, or writes its keys
            return None
        return answer if answer.status_code == 200 else None

    answer = until(ask, 60, "an answer of the archive")
    assert answer.json() == {"y": 1.0}
    assert answer.headers["x-model-version"] == "1.0"


def test_a_stock_archive_is_inspected_verified_and_served(shared: Site, tmp_path: Path) -> None:
    handler = tmp_path / "stock_handler.py"
    handler.write_text(textwrap.dedent(STOCK_HANDLER))
    extra = tmp_path / "notes.txt"
    extra.write_text("nothing\n")
    archiver = Path(sys.executable).parent / "torch-model-archiver"
    subprocess.run(
        [archiver, "--model-name", "stock", "--version", "1.0", "--handler", handler, "--extra-files", extra,
         "--export-path", tmp_path], check=True, timeout=60,
    )  # fmt: skip
    archive = tmp_path / "stock.mar"
    assert "stock" in shared.run("archive", "inspect", str(archive)).out
    shared.run("archive", "verify", str(archive))
    shared.run("models", "register", str(archive))
    assert shared.ask("stock", b'{"x": 2}').json() == {"y": 6}
    assert shared.run("models", "list", "--json").json()[0]["ready"] == 1
    [copied] = (shared.root / "archives" / "store").glob("stock-*.mar")
    assert re.fullmatch(r"stock-1\.0-[0-9a-f]{12}\.mar", copied.name)
