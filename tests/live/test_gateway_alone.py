"""The gateway before nodes that are not there: how it starts, who keeps it, what it tells, and how it ends."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import requests
import yaml

from benchmarks.harness.flood import flood, streams_without_window
from tests.support.gateways import Front, with_gateway
from tests.support.ports import free_ports
from tests.support.sites import TINY, Site, is_alive, make_site, processes_of, until
from tsctl.gateway.access_log import LONGEST_TEXT
from tsctl.gateway.counters import REQUESTS, parse_page
from tsctl.gateway.envoy import supervisor
from tsctl.gateway.envoy.render.overload import OTHER_FILES
from tsctl.gateway.envoy.render.upstreams import Endpoint, Upstream
from tsctl.gateway.publish import put_clusters, put_routes
from tsctl.gateway.state import changing
from tsctl.gateway.traffic import only


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    """A project whose gateway and node were never started."""
    site = make_site(tmp_path / "site")
    site.deploy(TINY)
    yield Front(site, *with_gateway(site, {}), key="")
    site.run("gateway", "stop")
    assert processes_of(site.root) == [], "processes are left behind"


def configure_gateway(site: Site, **changed: object) -> None:
    content = site.deployment
    content["gateway"] |= changed
    (site.root / "deployment.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def test_without_a_route_it_is_alive_and_not_ready(front: Front) -> None:
    front.site.run("gateway", "start")
    assert requests.get(f"{front.base}/healthz", timeout=5).status_code == 200
    for path in ("/readyz", "/v2/health/ready"):
        assert requests.get(front.base + path, timeout=5).status_code == 503
    assert "the gateway is not ready: no model has a route" in front.site.run("gateway", "status", status=5).err


def test_settings_that_need_a_new_start_are_told_and_not_passed_over(front: Front) -> None:
    site = front.site
    site.run("gateway", "start")
    assert site.run("gateway", "start").out == f"nothing to change: the gateway answers at {front.base}\n"
    [port] = free_ports(1)
    moved = f"http://127.0.0.1:{port}"
    configure_gateway(site, address=moved, request_bytes=5, budget={"requests_per_s": 5, "burst": 5})
    refused = site.run("gateway", "start", status=5)
    assert f"runs with address {front.base}, request_bytes 16777216, and deployment.yaml says" in refused.err
    assert f"says address {moved}, request_bytes 5\n" in refused.err
    assert site.run("gateway", "status", status=5).out == (
        f"gateway: not ready (pid {front.pid('envoy')}, supervisor {front.pid('keeper')}), {front.base}\n"
    )
    site.run("gateway", "stop")
    site.run("gateway", "start")
    assert requests.get(f"{moved}/healthz", timeout=5).status_code == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, None])
def test_in_the_foreground_it_is_its_own_supervisor_and_ends_when_it_is_stopped(
    front: Front, number: signal.Signals | None
) -> None:
    site = front.site
    with site.start("gateway", "start", "--foreground") as process:
        status = until(lambda: supervisor_of(site), 20, "the supervisor")
        assert status == process.pid
        assert "nothing to change" in site.run("gateway", "start").out
        refused = site.run("gateway", "start", "--foreground", status=7)
        assert f"the gateway has a supervisor, process {process.pid}" in refused.err
        assert supervisor_of(site) == process.pid
        envoy = front.pid("envoy")
        if number is None:
            site.run("gateway", "stop")
        else:
            process.send_signal(number)
        _, err = process.communicate(timeout=20)
        assert process.returncode == 0, err
    assert not is_alive(envoy)
    assert site.run("gateway", "status", status=5).out == f"gateway: not running, {front.base}\n"


def supervisor_of(site: Site) -> int | None:
    pid: int | None = site.run("gateway", "status", "--json", status=5).json()["supervisor"]
    return pid


def test_what_it_will_do_is_not_told_as_what_it_does(front: Front) -> None:
    shown = front.site.run("weights", "show")
    assert "the gateway does not run; it will start with these weights" in shown.err
    assert "no model has a route yet" in shown.out
    front.site.run("gateway", "start")
    assert front.site.run("weights", "show").err == ""
    unknown = front.site.run("weights", "show", "nobody", status=5)
    assert "no route for model 'nobody'\n       There are none." in unknown.err


def test_a_key_that_cannot_be_written_is_given_to_nobody(front: Front) -> None:
    site = front.site
    (site.root / "folder").mkdir()
    for name, reason in (("nowhere/key", "No such file or directory"), ("folder", "Is a directory")):
        refused = site.run("keys", "add", "a", "--header-file", name, status=2)
        assert refused.err == f"error: --header-file {name} cannot be written: {reason}\n"
    assert site.run("keys", "list", "--json").json() == []
    assert "is in key" in site.run("keys", "add", "a", "--header-file", "key").out
    assert (site.root / "key").read_text().startswith("x-api-key: tsctl_")
    assert (site.root / "key").stat().st_mode & 0o777 == 0o600
    assert [key["client"] for key in site.run("keys", "list", "--json").json()] == ["a"]


def test_hundreds_of_versions_take_no_more_of_the_kernels_watches_than_one(front: Front) -> None:
    front.site.run("gateway", "start")
    gateway = front.gateway
    [node] = gateway.nodes()
    places = (Endpoint(node.name, "127.0.0.1", node.spec.listens_on[0], None),)
    many = [Upstream(f"m{number}", "1.0", places, None) for number in range(300)]
    traffic = [only(one.model, "1.0") for one in many]
    before = inotify_instances(front.pid("envoy"))
    with changing(gateway):
        put_clusters(gateway, many, traffic)
        put_routes(gateway, traffic)
    assert gateway.admin.active_clusters() == {f"m{number}~1.0" for number in range(300)}
    assert inotify_instances(front.pid("envoy")) == before
    assert requests.post(f"{front.base}/predictions/m299", timeout=5).status_code == 401


def inotify_instances(pid: int) -> int:
    """The watches' instances of a process, of which the kernel gives a user 128 by default."""
    found = 0
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found += "inotify" in str(file.readlink())
    return found


def test_a_dead_or_hanging_supervisor_is_told_and_start_replaces_it(front: Front) -> None:
    site = front.site
    site.run("gateway", "start")
    old = front.pid("keeper")
    os.kill(old, signal.SIGKILL)
    assert "the gateway: its supervisor does not run" in site.run("gateway", "status", status=5).err
    assert "gateway: not ready" in site.run("status", status=4).out
    assert site.run("gateway", "start").out == "started its supervisor\n"
    hanging = front.pid("keeper")
    os.kill(hanging, signal.SIGSTOP)
    record = front.gateway.files.supervisor_record
    os.utime(record, (1, 1))  # as after a minute
    assert "its supervisor hangs" in site.run("gateway", "status", status=5).err
    assert site.run("gateway", "start").out == "started its supervisor\n"
    assert not is_alive(hanging)
    assert is_alive(front.pid("keeper"))


def test_a_hanging_envoy_is_told_and_the_supervisor_replaces_it(front: Front) -> None:
    site = front.site
    site.run("gateway", "start")
    os.kill(front.pid("keeper"), signal.SIGKILL)
    old = front.pid("envoy")
    os.kill(old, signal.SIGSTOP)
    for command in (("keys", "add", "somebody"), ("weights", "show"), ("gateway", "status")):
        assert "the gateway hangs: Envoy did not answer" in site.run(*command, status=5).err
    assert site.run("keys", "list", "--json").json() == []  # and no key was made that is in force nowhere
    assert "the gateway hangs" in site.run("gateway", "start", status=5).err  # but there is a supervisor now
    until(lambda: not is_alive(old), 60, "the end of the hanging Envoy")
    until(lambda: front.pid("envoy") != old and front.gateway.admin.is_live(), 30, "another Envoy")
    assert requests.get(f"{front.base}/healthz", timeout=5).status_code == 200
    site.run("keys", "add", "somebody")


def test_a_flood_of_refused_requests_is_counted_and_fills_no_disk(front: Front) -> None:
    """Twelve thousand requests with a path of 6,000 bytes; without a bound, they are a log of 78 MB."""
    front.site.run("gateway", "start")
    place = address_of(front)
    threads, each, path = 4, 3000, "/" + "x" * 5999
    with ThreadPoolExecutor(threads) as pool:
        asked = pool.map(lambda paths: flood(place, paths), [[path] * each] * threads)
    assert sum(asked, Counter()) == {404: threads * each}
    until(lambda: total_of(front, status="404") == threads * each, 10, "every request in the counters")
    without_line = front.gateway.admin.counter("lines_of_log.http_local_rate_limit.rate_limited")
    until(lambda: is_logged(front, "/after"), 10, "a line of a request after the flood")
    lines = [line for line in front.log() if line["path"] != "/after"]
    assert len(lines) == threads * each - without_line
    assert {len(line["path"]) for line in lines} == {LONGEST_TEXT}
    assert front.gateway.files.access_log.stat().st_size < 1000 * len(lines)


def test_a_key_that_a_client_put_into_the_address_is_in_no_log(front: Front) -> None:
    front.site.run("gateway", "start")
    for path in ("/predictions/tiny?key=hunter2", "/nowhere?hunter2"):
        requests.post(front.base + path, headers={"x-api-key": "hunter2", "authorization": "hunter2"}, timeout=5)
    until(lambda: {line["path"] for line in front.log()} >= {"/predictions/tiny", "/nowhere"}, 10, "both lines")
    assert not [path for path in front.gateway.files.access_log.parent.iterdir() if b"hunter2" in path.read_bytes()]


def test_the_kernel_bounds_the_log_where_the_supervisor_does_not(front: Front) -> None:
    front.site.run("gateway", "start")
    os.kill(front.pid("keeper"), signal.SIGKILL)
    envoy, largest = front.pid("envoy"), 20_000
    resource.prlimit(envoy, resource.RLIMIT_FSIZE, (largest, largest))
    gateway, place = front.gateway, address_of(front)
    assert flood(place, ["/nowhere"] * 400) == {404: 400}
    log = gateway.files.access_log
    until(lambda: gateway.admin.counter("filesystem.write_failed"), 10, "a line that is refused")
    assert log.stat().st_size == largest
    assert flood(place, ["/nowhere"]) == {404: 1}
    assert supervisor.rotate(gateway, largest=largest)
    until(lambda: flood(place, ["/nowhere"]) and log.is_file() and log.stat().st_size, 10, "lines in a new file")
    assert is_alive(envoy)


def is_logged(front: Front, path: str) -> bool:
    flood(address_of(front), [path])
    return any(line["path"] == path for line in front.log())


def test_streams_that_nobody_reads_end_before_memory_does(front: Front) -> None:
    """Without a bound, 120 connections of HTTP/2 without a key hold 320 MB. Envoy looks ten times a second."""
    memory = 96 << 20
    configure_gateway(front.site, memory_bytes=memory)
    front.site.run("gateway", "start")
    admin, place = front.gateway.admin, address_of(front)
    with ExitStack() as held:
        for _ in range(120):
            client = held.enter_context(socket.create_connection(place, timeout=30))
            with suppress(OSError):  # the gateway may close it at any time
                client.sendall(streams_without_window("/nowhere", 128))
        shed = "downstream_rq_overload_close$|http2_server_go_away_and_close_on_dispatch.shed_load_count$"
        until(lambda: sum(admin.counters(shed).values()), 20, "load that is shed")
        until(lambda: answers(f"{front.base}/healthz"), 20, "an answer")
        assert admin.counter("server.memory_allocated") < 2 * memory


def test_idle_connections_do_not_take_the_place_of_others(front: Front) -> None:
    """As many as Envoy may have, which follows the files that it may open."""
    started = start_with_files(front.site, 1300)
    assert started.returncode == 0, started.stderr
    assert resource.prlimit(front.pid("envoy"), resource.RLIMIT_NOFILE) == (1300, 1300)
    place = address_of(front)
    with ExitStack() as held:
        for _ in range((1300 - OTHER_FILES) // 2):
            held.enter_context(socket.create_connection(place, timeout=30))
        until(lambda: answers(f"{front.base}/healthz"), 20, "a place for another connection")


def test_fewer_files_than_a_gateway_needs_are_told(front: Front) -> None:
    refused = start_with_files(front.site, 300)
    assert refused.returncode == 5
    assert "error: the gateway may open 300 files here, and needs 1,024\n" in refused.stderr


def start_with_files(site: Site, most: int) -> subprocess.CompletedProcess[str]:
    """`tsctl gateway start` of a user who may open so many files."""
    command = [
        "sh",
        "-c",
        f'ulimit -n {most} && exec "$@"',
        "sh",
        sys.executable,
        "-m",
        "tsctl.cli.main",
        "gateway",
        "start",
    ]
    environment = {**os.environ, "TSCTL_PROJECT": str(site.root)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def answers(url: str) -> bool:
    """Whether the gateway answers 200, and does not close the connection at once."""
    try:
        return requests.get(url, timeout=5).status_code == 200
    except requests.ConnectionError:
        return False


def address_of(front: Front) -> tuple[str, int]:
    host, port = front.gateway.spec.listens_on_all["address"]
    return host, port


def total_of(front: Front, **labels: str) -> int:
    """Requests that the gateway has counted with these labels."""
    samples = [sample for sample in parse_page(front.gateway.admin.page("tsctl")) if sample.name == REQUESTS]
    return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


def test_a_key_is_revoked_on_a_full_disk(tmp_path: Path) -> None:
    """On a small disk of its own, which takes root, as the machines of test_many_nodes do."""
    root = tmp_path / "site"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", root], check=True)
    try:
        site = make_site(root)
        site.deploy(TINY)
        front = Front(site, *with_gateway(site, {}), key="")
        front.key = site.run("keys", "add", "mallory").out.strip()
        site.run("gateway", "start")
        try:
            fill(root / "full")
            site.run("keys", "revoke", "mallory")
            assert front.gateway.admin.routes() is not None
            assert front.key not in json.dumps(front.gateway.admin.routes())
            assert site.run("keys", "list", "--json").json() == []
        finally:
            site.run("gateway", "stop")
    finally:
        subprocess.run(["umount", root], check=True)


def fill(path: Path) -> None:
    """Leave no free byte on the disk."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"x" * 4096):
            pass
