"""`tsctl metrics` beside a real node: what its workers see, and a page that outlives every start of the node."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tests.support.sites import Site

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


@contextmanager
def exporter(site: Site) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running `tsctl metrics serve` on a free port, and the address of its page."""
    with site.start("metrics", "serve", "--listen", "127.0.0.1:0") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("metrics of node local at http://127.0.0.1:"), process.communicate()
        yield process, line.split()[-1]


def variable_of(pid: int) -> str | None:
    """What a process was started with as the folder of its metrics."""
    environment = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(entry.partition("=")[::2] for entry in environment).get(VARIABLE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_exporter_answers_and_ends_cleanly(node: Site, number: signal.Signals) -> None:
    with exporter(node) as (process, address):
        page = requests.get(address, timeout=10)
        assert page.status_code == 200
        assert page.headers["Content-Type"].startswith("text/plain; version=")
        assert requests.get(address.replace("/metrics", "/healthz"), timeout=10).text == "ok\n"
        assert requests.get(address.replace("/metrics", "/"), timeout=10).status_code == 404
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out, err) == (0, "", "")
    with pytest.raises(requests.ConnectionError):
        requests.get(address, timeout=10)


def test_every_worker_of_the_node_sees_where_to_write(node: Site) -> None:
    folder = node.folder / "metrics"
    assert folder.stat().st_mode & 0o777 == 0o700
    for model, version in (("digits", "1.0"), ("digits", "2.0"), ("embeddings", "1.0"), ("breast_cancer", "1.0")):
        pids = node.workers(model, version)
        assert pids
        assert {variable_of(pid) for pid in pids} == {str(folder)}
    assert variable_of(node.pid) == str(folder)


def test_show_prints_what_serve_exports(node: Site) -> None:
    with exporter(node) as (_, address):
        end = time.monotonic() + 30
        while (shown := node.run("metrics", "show", "--raw").out) != requests.get(address, timeout=10).text:
            assert time.monotonic() < end, "the other tests of the node never pause, or the two differ"
    assert "\nError" not in shown


def test_a_port_in_use_is_told(node: Site) -> None:
    with exporter(node) as (_, address):
        listen = address.removeprefix("http://").removesuffix("/metrics")
        failed = node.run("metrics", "serve", "--listen", listen, status=4)
    assert f"error: 127.0.0.1, port {listen.partition(':')[2]}, is in use" in failed.err
    assert "--listen" in failed.err


def test_a_start_of_the_node_empties_the_folder_under_a_running_exporter(site: Site) -> None:
    never = site.run("metrics", "show", status=4)
    assert "was never started here" in never.err
    with exporter(site) as (process, address):
        assert requests.get(address, timeout=10).text == ""
        folder = site.folder / "metrics"
        folder.mkdir(parents=True)
        left = folder / "counter_1.db"
        left.write_bytes(b"\xff\x00\x00\x00\x00\x00\x00")  # it says that it holds more than it does
        assert requests.get(address, timeout=10).status_code == 200
        site.run("node", "start")
        assert not left.exists()
        assert requests.get(address, timeout=10).text == ""
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
        assert process.returncode == 0
        assert err.count("cannot be read and is left out") == 1
        assert "Traceback" not in err


def test_a_node_on_another_machine_is_named(site: Site) -> None:
    text = (site.root / "deployment.yaml").read_text()
    (site.root / "deployment.yaml").write_text(text.replace("127.0.0.1", "10.1.2.3"))
    for verb in ("serve", "show"):
        failed = site.run("metrics", verb, status=4)
        assert "node local is on 10.1.2.3, and its workers write their metrics there" in failed.err
        assert "Run this on that machine." in failed.err
    (site.root / "deployment.yaml").write_text(text)
