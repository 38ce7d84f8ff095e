"""`tsctl export ray`: `serve run` takes the folder, and it answers as every engine does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import requests
import yaml

from handlers.contract import FORK_SERVER_OFF, FORK_SERVER_VARIABLE, MODEL_VERSION_HEADER, WORKER_PYTHON_VARIABLE
from tests.support.engines import installed
from tests.support.ports import free_ports
from tests.support.sites import HALF, make_site, write_tiny
from tsctl.host.wait import wait_until

START_S = 120.0


def test_serve_run_takes_the_folder(tmp_path: Path) -> None:
    site = make_site(tmp_path / "site")
    write_tiny(site, "tiny", {"1.0": {}})
    said = site.run("export", "ray", "tiny", "--to", str(tmp_path / "out")).out
    assert "serve run serve.yaml" in said
    config = yaml.safe_load((tmp_path / "out" / "serve.yaml").read_text())
    [config["http_options"]["port"]] = free_ports(1)
    (tmp_path / "out" / "serve.yaml").write_text(yaml.safe_dump(config))
    url = f"http://127.0.0.1:{config['http_options']['port']}"
    own = {
        WORKER_PYTHON_VARIABLE: sys.executable,
        FORK_SERVER_VARIABLE: FORK_SERVER_OFF,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",  # it would write a token into the home folder
        "RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE": "1",
    }
    serve = installed("ray").folder / "bin" / "serve"
    log = tmp_path / "serve.log"

    def is_ready() -> bool:
        try:
            return requests.get(f"{url}/ping", timeout=5).status_code == 200
        except requests.RequestException:
            return False

    with log.open("wb") as output, subprocess.Popen(
        [str(serve), "run", "serve.yaml"], cwd=tmp_path / "out", env={**os.environ, **own},
        stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            assert wait_until(lambda: is_ready() or process.poll() is not None, START_S, 0.2), log.read_text()
            assert process.poll() is None, log.read_text()
            sent = {"content-type": "application/json", "x-request-id": "mine"}
            for path in ("/predictions/tiny", "/predictions/tiny/1.0"):
                answer = requests.post(url + path, HALF, headers=sent, timeout=20)
                assert (answer.status_code, answer.json(), answer.headers[MODEL_VERSION_HEADER]) == (
                    200, {"y": 1.0}, "1.0",
                )  # fmt: skip
                assert answer.headers["x-request-id"] == "mine"
            bad = requests.post(f"{url}/predictions/tiny", b"{", headers=sent, timeout=20)
            assert (bad.status_code, bad.headers["content-type"]) == (400, "application/problem+json")
            assert requests.get(f"{url}/openapi.json", timeout=20).json()["info"]["title"] == "tiny"
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
