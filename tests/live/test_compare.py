"""`tsctl engines compare` on real engines, and its load client on servers that stall, refuse and hang up."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from handlers.contract import FORK_SERVER_VARIABLE
from tests.support.gateways import certificate
from tests.support.sites import Site, copy_archives, until
from tsctl.compare.load.figures import load_figures
from tsctl.compare.load.order import LOST, Order
from tsctl.compare.load.run import run_load
from tsctl.compare.load.schedule import send_times
from tsctl.errors import NodeError

REQUEST = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
BUSY = b"HTTP/1.1 503 Busy\r\nretry-after: 1\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"


@contextmanager
def serving(*answers: bytes, stall_s: float = 0.0, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server that gives these answers in turn, and none at all for `stall_s` after its first request."""
    lock, count, begin = threading.Lock(), [0], [0.0]

    def serve(connection: socket.socket) -> None:
        if tls is not None:
            try:
                connection = tls.wrap_socket(connection, server_side=True)
            except OSError:
                return  # the client trusts another certificate
        with connection:
            while connection.recv(1 << 16):
                with lock:
                    answer = answers[count[0] % len(answers)]
                    count[0] += 1
                    begin[0] = begin[0] or time.monotonic()
                time.sleep(max(0.0, begin[0] + stall_s - time.monotonic()))
                if not answer:
                    return
                connection.sendall(answer)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_closed_loop_sends_when_it_has_its_answer() -> None:
    with serving(OK, BUSY, b"") as port:
        noted = run_load(Order("127.0.0.1", port, 2, 0.5), [REQUEST])
    assert set(noted.status) == {200, 503, LOST}
    refused = [retry for status, retry in zip(noted.status, noted.retry_after, strict=True) if status == 503]
    assert all(refused)
    assert noted.cpu_s > 0


def test_an_open_loop_counts_from_the_moment_at_which_a_request_was_meant_to_be_sent() -> None:
    """A server stalls for a second; with one connection, every request of that second waits, and is charged for it."""
    moments = send_times(100.0, 1.5)
    with serving(OK, stall_s=1.0) as port:
        noted = run_load(Order("127.0.0.1", port, 1, 1.5), [REQUEST], moments)
    figures = load_figures(noted, 1, offered_s=100.0)
    assert figures.requests == len(moments)
    assert figures.failed == 0
    late = sum(came - intended > 0.5 for came, intended in zip(noted.came, noted.intended, strict=True))
    assert late >= 30, "all that were meant to be sent in the first half second"
    assert figures.p50_ms > 100


def test_a_load_on_an_address_where_nothing_listens_is_an_error() -> None:
    with serving(OK) as port:
        pass
    with pytest.raises(NodeError, match=f"the load on 127.0.0.1:{port} failed: Connection refused"):
        run_load(Order("127.0.0.1", port, 1, 0.1), [REQUEST])


def test_engines_are_compared_and_nothing_is_left_behind(site: Site, tmp_path: Path) -> None:
    copy_archives(site, "breast_cancer")
    site.environment[FORK_SERVER_VARIABLE] = ""  # each node has its own, so that its workers' memory is its own
    sample = json.loads((site.root / "archives" / "breast_cancer" / "samples" / "benign.json").read_text())
    traffic = tmp_path / "traffic.jsonl"
    traffic.write_text(json.dumps({"body": sample, "headers": {"x-user": "ann"}}) + "\n")
    report = tmp_path / "report.html"
    tiny = ("--rounds", "1", "--seconds", "0.4", "--warm-s", "0.2", "--connections", "8", "--slo-p99-ms", "10000")
    engines = ("--engine", "torchserve", "--engine", "uvicorn", "--engine", "bentoml")
    files = ("--traffic", str(traffic), "--out", str(report))
    result = site.run("engines", "compare", "breast_cancer", *engines, *tiny, *files, "--overload", "--json")
    found = result.json()
    assert found == json.loads(report.with_suffix(".json").read_text())
    assert found["setting"]["source"] == f"1 requests of {traffic}"
    missing = found["engines"].pop()
    assert (missing["name"], missing["turns"]) == ("bentoml", [])
    assert "tsctl engines install bentoml" in missing["why_not"]
    assert [(engine["name"], engine["difference"]) for engine in found["engines"]] == [
        ("torchserve", ""),
        ("uvicorn", ""),
    ]
    assert found["advice"]["engines"], found["advice"]["sentence"]
    assert found["bare"]["requests_s"][0] > 0
    for engine in found["engines"]:
        [turn] = engine["turns"]
        assert turn["saturated"]["statuses"] == {"200": turn["saturated"]["requests"]}
        assert turn["saturated"]["connections"] == 8
        assert set(turn["open_loops"]) == {"0.5", "0.8"}
        assert turn["ready_s"] > 0
        assert turn["cpu_s_per_1000"] > 0
        assert turn["memory_bytes"] > 50 << 20, "workers are counted, and not only their parent"
        assert turn["overload"]["offered_s"] == 2 * turn["overload"]["capacity_s"] > 0
    assert "Throughput against p99" in report.read_text()


@pytest.mark.parametrize("engine", ["torchserve", "uvicorn"])
def test_a_comparison_that_is_ended_leaves_neither_nodes_nor_folders(site: Site, tmp_path: Path, engine: str) -> None:
    copy_archives(site, "breast_cancer")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    site.environment["TMPDIR"] = str(temporary)
    command = ("engines", "compare", "breast_cancer", "--engine", engine, "--rounds", "1", "--warm-s", "60")
    with site.start(*command) as process:
        until(lambda: inside(temporary) > 0, 90, "a node")
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        try:
            _, err = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            pytest.fail("it did not end after SIGTERM")
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert list(temporary.iterdir()) == []
    until(lambda: inside(temporary) == 0, 10, "the end of every process")


def inside(folder: Path) -> int:
    """How many processes of nodes have something below the folder among their arguments."""
    found = 0
    for process in psutil.process_iter(["cmdline"]):
        arguments = process.info["cmdline"] or []
        found += any(f"{folder}/tsctl-compare-" in each and "/own/" in each for each in arguments)
    return found


def test_a_comparison_that_cannot_be_made_says_why(site: Site, tmp_path: Path) -> None:
    copy_archives(site, "breast_cancer")
    refused = tmp_path / "refused.jsonl"
    refused.write_text('{"body": {"mean_radius": 1}}\n')
    tiny = ("--rounds", "1", "--seconds", "0.2", "--engine", "uvicorn")
    result = site.run("engines", "compare", "breast_cancer", *tiny, "--traffic", str(refused), status=2)
    assert "line 1: the model itself answers with 422" in result.err
    result = site.run("engines", "compare", "breast_cancer", "--engine", "tomcat", status=2)
    assert "there is no engine tomcat" in result.err
    result = site.run("engines", "compare", "breast_cancer", "--out", "report.json", status=2)
    assert "must end with .html" in result.err


def test_requests_to_a_server_that_went_away_are_lost_and_the_loop_goes_on() -> None:
    """One connection is answered once; then neither it nor another one is open."""

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.recv(1 << 16)
        listener.close()
        connection.sendall(OK)
        connection.close()

    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=serve, args=(listener,))
    thread.start()
    noted = run_load(Order("127.0.0.1", listener.getsockname()[1], 1, 1.0), [REQUEST], [0.0, 0.8, 0.9, 1.0])
    thread.join()
    assert list(noted.status) == [200, LOST, LOST, LOST]
    assert all(
        came >= sent >= intended for came, sent, intended in zip(noted.came, noted.sent, noted.intended, strict=True)
    )


def test_a_server_that_takes_no_connections_any_more_does_not_stop_the_loop() -> None:
    """It answers once, and then holds so many connections open that the kernel drops every further one."""
    fillers = [socket.socket() for _ in range(8)]

    def serve() -> None:
        connection, _ = listener.accept()
        connection.recv(1 << 16)
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        connection.sendall(OK)
        connection.close()

    with ExitStack() as opened:
        listener = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for filler in fillers:
            opened.enter_context(filler)
        thread = threading.Thread(target=serve)
        thread.start()
        order = Order("127.0.0.1", listener.getsockname()[1], 1, 1.0, drain_s=1.0)
        noted = run_load(order, [REQUEST], [0.0, *(0.5 + 0.005 * number for number in range(100))])
        thread.join()
    assert list(noted.status) == [200] + [LOST] * 100


def test_over_tls_the_certificate_decides(tmp_path: Path) -> None:
    for name in ("right", "wrong"):
        certificate(tmp_path / name, name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "right" / "server.pem", tmp_path / "right" / "server.key")
    long = b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000
    with serving(long, tls=context) as port:
        order = Order("127.0.0.1", port, 2, 0.3, trusted=str(tmp_path / "right" / "server.pem"))
        assert list(run_load(order, [REQUEST], [0.0, 0.1, 0.2]).status) == [200] * 3
        for trusted in (str(tmp_path / "wrong" / "server.pem"), ""):
            with pytest.raises(NodeError, match="certificate verify failed"):
                run_load(replace(order, trusted=trusted), [REQUEST], [0.0])
