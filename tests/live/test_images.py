"""What `tsctl render image` writes is built and run, in folders: each command of the Containerfiles, and each service.

The packages are those beside these tests; `make test-image` installs them as the files say (tests/images).
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import requests

from tests.support.containers import Image, Service, inside, running
from tests.support.images import BEGAN, SLOW_S, STATE, Team, make_team
from tests.support.ports import free_ports
from tests.support.programs import program
from tests.support.sites import until
from tsctl.archive.container import digest_of
from tsctl.archive.remote_store import Kept, open_store
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.project import Project
from tsctl.config.store import StoreSpec
from tsctl.host.progress import Progress
from tsctl.render.image.context import Options, render
from tsctl.render.image.selection import select

#: Of the services' commands: two that share a network, as here, cannot have one port.
METRICS = "0.0.0.0:9464"
FREE_PORT = {METRICS: "127.0.0.1:0"}


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Team:
    return make_team(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the volumes of all services lie."""
    return tmp_path_factory.mktemp("volumes")


@pytest.fixture(scope="module")
def image(team: Team, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The image of uvicorn."""
    return team.build("uvicorn", tmp_path_factory.mktemp("built") / "uvicorn")


@pytest.fixture(scope="module")
def node(team: Team, image: Image, volumes: Path) -> Iterator[Service]:
    """The node of uvicorn, from its own image."""
    words = {METRICS: f"127.0.0.1:{team.ports['exporter']}"}
    with running(team.context / "compose.yaml", "node-main", image, volumes, words) as service:
        assert not service.is_healthy, "the check succeeds before anything is served"
        service.wait_healthy()
        yield service


@pytest.fixture(scope="module")
def serve(team: Team, volumes: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The node of TorchServe, from its own image."""
    image = team.build("torchserve", tmp_path_factory.mktemp("built") / "torchserve")
    with running(team.context / "compose.yaml", "node-serve", image, volumes, FREE_PORT) as service:
        service.wait_healthy()
        yield service


def ask(team: Team, node: Service, points: float) -> requests.Response:
    """The node's own answer."""
    name, _, value = (node.folders[STATE] / "nodes" / "main" / "inference.header").read_text().strip().partition(": ")
    url = f"http://127.0.0.1:{team.ports['uvicorn']}/predictions/grade/1.0"
    return requests.post(url, json={"points": points}, headers={name: value}, timeout=60)


def test_a_node_serves_with_its_package_its_secret_and_a_trusted_pickle(team: Team, node: Service) -> None:
    answer = ask(team, node, 0.75)
    assert (answer.status_code, answer.json()) == (200, {"grade": "pass", "school": "north"})


def test_it_runs_as_its_own_user_and_writes_nothing_but_its_state(node: Service) -> None:
    user = node.execute("id", "--user").stdout.strip()
    assert user == "10001" and node.execute("id", "--name", "--user").stdout.strip() == "tsctl"
    for place in ("/opt/tsctl/x", "/srv/tsctl/x", "/etc/x", "/x"):
        assert "Read-only file system" in node.execute("touch", place).stderr, place
    for place in ("/tmp/x", f"{STATE}/x"):  # noqa: S108 - of the container
        assert node.execute("touch", place).returncode == 0, place


def test_its_first_process_is_tsctl_which_serves_metrics(team: Team, node: Service) -> None:
    first = node.execute("cat", "/proc/1/cmdline").stdout.split("\0")
    assert first[1:4] == ["/opt/tsctl/bin/tsctl", "up", "--foreground"]
    page = requests.get(f"http://127.0.0.1:{team.ports['exporter']}/state", timeout=20).text
    assert 'tsctl_node_ready_workers{model="grade",node="main",version="1.0"} 1.0' in page


def test_the_gateway_serves_the_models_of_all_nodes_to_clients_with_a_key(
    team: Team, node: Service, serve: Service, volumes: Path, tmp_path: Path
) -> None:
    image = team.build("gateway", tmp_path / "gateway")
    with running(team.context / "compose.yaml", "gateway", image, volumes, FREE_PORT) as gateway:
        gateway.wait_healthy()
        added = gateway.execute("tsctl", "keys", "add", "team", "--header-file", f"{STATE}/team.header")
        assert added.returncode == 0, added.stderr
        name, _, key = (gateway.folders[STATE] / "team.header").read_text().strip().partition(": ")
        url = f"http://127.0.0.1:{team.ports['gateway']}/predictions"
        assert (
            requests.post(f"{url}/grade", json={"points": 0.2}, headers={name: key}, timeout=20).json()["grade"]
            == "fail"
        )
        assert requests.post(f"{url}/tiny", json={"x": 0.5}, headers={name: key}, timeout=20).json() == {"y": 1.0}
        assert requests.post(f"{url}/tiny", json={"x": 0.5}, timeout=20).status_code == 401
        verified = gateway.execute("tsctl", "archive", "verify", "grade", timeout_s=120)
        assert verified.returncode == 0, f"a rollout verifies here: {verified.stdout}{verified.stderr}"
        assert gateway.stop() == 0, gateway.log.read_text()


def test_sigterm_ends_it_once_its_request_is_answered(team: Team, node: Service) -> None:
    began = node.folders[STATE] / BEGAN
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(ask, team, node, 9.0)
        until(began.is_file, 30, "the request at its worker")
        begin = time.monotonic()
        assert node.stop() == 0, node.log.read_text()
        assert asked.result(30).json() == {"grade": "pass", "school": "north"}
    assert time.monotonic() - begin > SLOW_S / 2, "it was answered before the end, and not only asked"


def test_a_node_of_torchserve_ends_as_it_is_asked(serve: Service) -> None:
    assert serve.stop() == 0, serve.log.read_text()


def test_a_pod_serves_one_archive_of_the_same_image(team: Team, image: Image, tmp_path: Path) -> None:
    """As `tsctl render kubernetes` has it: no node, no gateway, no token."""
    [archive] = inside(image, "/srv/tsctl/archives/store").glob("grade-*.mar")
    [port] = free_ports(1)
    command = ["/opt/tsctl/bin/tsctl", "serve", f"/srv/tsctl/archives/store/{archive.name}"]
    command += ["--host", "0.0.0.0", "--port", str(port), "--workers", "1"]  # noqa: S104 - of the pod
    with running(team.context / "compose.yaml", "node-main", image, tmp_path, command=command) as pod:
        until(lambda: is_ready(f"http://127.0.0.1:{port}/ping"), 90, "readiness")
        answer = requests.post(f"http://127.0.0.1:{port}/predictions/grade", json={"points": 0.2}, timeout=20)
        assert answer.json() == {"grade": "fail", "school": "north"}
        assert pod.stop() == 0, pod.log.read_text()


def is_ready(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).status_code == 200
    except requests.ConnectionError:
        return False


def test_a_build_pulls_its_archives_by_their_digests(team: Team, tmp_path: Path) -> None:
    project = Project(team.site.root)
    document = team.site.deployment
    with files_over_http(tmp_path / "store") as address:
        store = open_store(project, StoreSpec(address=str(tmp_path / "store")))
        selection = select(project, ["tiny"], "uvicorn")
        for packed in selection.archives:
            store.push(packed.archive.path, *packed.archive.key, packed.digest, Kept({}, {}))
        deployment = DeploymentSpec.model_validate({**document, "store": address})
        made = replace(selection, deployment=deployment)
        render(made, tmp_path / "images", Options(pull=True), Progress(), lambda wanted, note: [])
        pulling = replace(team, context=tmp_path / "images")
        assert not list((tmp_path / "images").rglob("*.mar"))
        image = pulling.build("gateway", tmp_path / "built")
    [archive] = inside(image, "/srv/tsctl/archives/store").glob("*.mar")
    assert digest_of(archive) == selection.archives[0].digest


@contextmanager
def files_over_http(folder: Path) -> Iterator[str]:
    """The folder as a server of files."""
    folder.mkdir()
    handler = partial(QuietFiles, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class QuietFiles(SimpleHTTPRequestHandler):
    """Files of a folder, without a line for each request."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize(("tool", "words"), [("promtool", ("check", "config")), ("amtool", ("check-config",))])
def test_prometheus_and_alertmanager_take_their_files(team: Team, tool: str, words: tuple[str, ...]) -> None:
    files = {"promtool": "prometheus.yml", "amtool": "alertmanager.yml"}
    command = [program(tool), *words, str(team.context / "monitoring" / files[tool])]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_the_bill_of_materials_names_the_archive(team: Team) -> None:
    bill: dict[str, Any] = json.loads((team.context / "uvicorn" / "sbom.cdx.json").read_text())
    assert "grade" in {one["name"] for one in bill["components"]}
