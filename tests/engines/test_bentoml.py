"""More of an exported folder under `bentoml serve` than tests/live/test_bentoml.py has, and `bentoml build`."""

from __future__ import annotations

import json
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

from handlers.contract import ANSWERED_ITEMS, BATCH_ITEMS
from tests.live.test_bentoml import SLOW, SLOW_S, Served, bentoml, project, served, variables  # noqa: F401 - fixtures
from tests.support.engines import bentoml_command, stub_of_uv
from tests.support.sites import Site, write_tiny
from tsctl.host.wait import wait_until
from tsctl.nodes.environments import Environment


def test_requests_that_wait_are_one_batch_and_bentomls_page_has_the_workers_metrics(served: Served) -> None:
    with ThreadPoolExecutor(5) as pool:
        first = pool.submit(served.ask, SLOW)
        time.sleep(SLOW_S / 3)
        waiting = [pool.submit(served.ask, json.dumps({"x": x}).encode()) for x in range(4)]
        assert first.result().status_code == 200
        assert [one.result().json() for one in waiting] == [{"y": 2.0 * x} for x in range(4)]

    def page() -> str:
        return requests.get(f"{served.url}/metrics", timeout=30).text

    largest = f'{BATCH_ITEMS}_bucket{{le="2.0",model="tiny",version="1.0"}}'
    every = f'{BATCH_ITEMS}_bucket{{le="+Inf",model="tiny",version="1.0"}}'

    def has_a_batch_of_more_than_two() -> bool:
        counts = dict(line.rsplit(" ", 1) for line in page().splitlines() if line.startswith(BATCH_ITEMS))
        return float(counts.get(every, 0)) > float(counts.get(largest, 0))

    assert wait_until(has_a_batch_of_more_than_two, 10, 0.2), page()
    assert ANSWERED_ITEMS in page() and "bentoml_service_request_total" in page()


def test_bentoml_build_makes_a_bento(served: Served, project: Site, bentoml: Environment, tmp_path: Path) -> None:
    environment = variables(project)
    environment["PATH"] = f"{stub_of_uv(tmp_path / 'bin')}{os.pathsep}{environment['PATH']}"
    command = bentoml_command(bentoml, "build", "--version", "1.0", "--output", "tag")
    ended = subprocess.run(
        command, cwd=served.folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert "__tag__:tiny:1.0" in ended.stdout, ended.stdout + ended.stderr
    bento = project.root / "bentoml" / "bentos" / "tiny" / "1.0"
    assert (bento / "src" / "archive" / "model-config.yaml").is_file()
    pins = (bento / "env" / "python" / "requirements.txt").read_text()
    assert "torch==" in pins and "bentoml==" in pins


def test_an_archive_that_must_not_serve_says_why(project: Site, bentoml: Environment) -> None:
    write_tiny(project, "wrong", {"1.0": {}}, golden=17.0)
    folder = project.root / "wrong"
    project.run("export", "bentoml", "wrong", "--to", str(folder))
    program = (
        "import asyncio, service; from pathlib import Path; from handlers.adapters.bentoml.service import Served;"
        "asyncio.run(Served(Path('archive')).start())"
    )
    environment = {**variables(project), "PROMETHEUS_MULTIPROC_DIR": str(project.root / "bentoml")}
    ended = subprocess.run(
        [bentoml.python, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "LoadError: wrong 1.0 must not serve: sample half.json" in ended.stderr
