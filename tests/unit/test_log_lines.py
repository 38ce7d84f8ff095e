"""The lines of a model and of a request are found in the logs of every engine, in rotated files too."""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from handlers import log_lines
from handlers.log_lines import about, log_error, name_lines, tag
from tests.support.commands import run_command
from tsctl.nodes.log_lines import Follower, Wanted, files_of, find_lines, follow


@dataclass(frozen=True)
class Asked:
    request_id: str | None


@contextmanager
def worker(name: str = "") -> Iterator[io.StringIO]:
    """In the block, this process writes its lines as a worker does; gives what is written.

    A fixture could not: pytest puts its own streams in place after the set-up.
    """
    streams, written, root = (sys.stdout, sys.stderr), io.StringIO(), logging.getLogger()
    handler = logging.StreamHandler(written)
    root.addHandler(handler)
    sys.stdout = sys.stderr = written
    try:
        name_lines(name)
        yield written
    finally:
        sys.stdout, sys.stderr = streams
        root.removeHandler(handler)


def test_every_line_that_belongs_to_a_request_begins_with_its_id() -> None:
    with worker("digits 1.0") as written:
        print("ready")  # noqa: T201 - an author's own line
        with about([Asked("a b]")]):
            print("one", "two", sep="\n")  # noqa: T201
            try:
                raise KeyError("speces")
            except KeyError:
                logging.getLogger("any").exception("failed")
        with about([Asked("x"), Asked("y"), Asked("x"), Asked(None)]):
            print("both")  # noqa: T201
            print("[METRICS]of.TorchServe:1")  # noqa: T201
    lines = written.getvalue().splitlines()
    assert lines[0] == "digits 1.0: ready"
    assert lines[1:3] == ["digits 1.0: [request a%20b%5D] one", "digits 1.0: [request a%20b%5D] two"]
    assert all(line.startswith("digits 1.0: [request a%20b%5D] ") for line in lines[3:-2]), lines
    assert lines[3].endswith("] failed")
    assert lines[-3].endswith("] KeyError: 'speces'")
    assert lines[-2:] == ["digits 1.0: [request x,y] both", "[METRICS]of.TorchServe:1"]


def test_without_a_name_only_lines_of_requests_change() -> None:
    with worker() as written:
        name_lines("again")  # a second worker in the process changes nothing
        sys.stderr.write("half ")
        with about([Asked("x")]):
            sys.stderr.write("a line\nwhole\n\n")
        sys.stderr.writelines(["plain\n"])
    assert written.getvalue() == "half a line\n[request x] whole\n\nplain\n"


def test_a_line_names_at_most_some_requests_of_a_batch() -> None:
    assert tag([]) == tag([None, ""]) == ""
    named = tag(map(str, range(1000)))
    assert named.count(",") == log_lines.MOST_IDS - 1


def test_a_server_logs_a_traceback_with_the_id_in_each_line(caplog: pytest.LogCaptureFixture) -> None:
    log_error(logging.getLogger("any"), ["x"], "POST /a failed", ValueError("of a\nroute"))
    assert all(message.startswith("[request x] ") for message in caplog.messages)
    assert [message.removeprefix("[request x] ") for message in caplog.messages][-2:] == ["ValueError: of a", "route"]


#: Logs as the engines write them, of two models whose names begin alike.
TORCHSERVE = """\
2026-11-26T01:00:00,001 [INFO ] W-9000-digits_1.0-stdout - started
2026-11-26T01:00:01,001 [WARN ] W-9000-digits_1.0-stderr - [request abc] failed
2026-11-26T01:00:01,001 [WARN ] W-9000-digits_1.0-stderr - [request abc] Traceback (most recent call last):
2026-11-26T01:00:02,001 [WARN ] W-9001-digits_2.0-stderr - [request abcd] other
2026-11-26T01:00:03,001 [WARN ] W-9002-digits_b_1.0-stderr - [request x,abc] of a batch
2026-11-26T01:00:04,001 [WARN ] W-9000-digits_1.0 WorkerThread - worker ended
2026-11-26T01:00:05,001 [INFO ] main ModelServer - the node
 goes on
"""
OWN = """\
2026-11-26 01:00:00,001 INFO digits 1.0 serves: {}
2026-11-26 01:00:01,001 INFO digits 1.0: [request abc] failed
2026-11-26 01:00:01,002 INFO digits 1.0: [request abc] Traceback (most recent call last):
2026-11-26 01:00:02,001 INFO digits 2.0: [request abcd] other
2026-11-26 01:00:03,001 INFO digits_b 1.0: [request x,abc] of a batch
2026-11-26 01:00:04,001 ERROR digits 1.0 cannot be started
Traceback of the node
2026-11-26 01:00:05,001 WARNING worker 1 ended
"""
TRITON = """\
I1126 01:00:00.000001 1 model_lifecycle.cc:1] "loading: digits:1"
digits 1.0: started
digits 1.0: [request abc] failed
digits 1.0: [request abc] Traceback (most recent call last):
digits 1.0: an author's line
digits 2.0: [request abcd] other
digits_b 1.0: [request x,abc] of a batch
"""
KNOWN = ("digits", "digits_b")


def texts(folder: Path, content: str, wanted: Wanted, most: int | None = None) -> list[str]:
    log = folder / "node.log"
    log.write_text(content)
    return [line.text for line in find_lines("local", [log], wanted, most, pytest.fail)]


@pytest.mark.parametrize("content", [TORCHSERVE, OWN, TRITON])
def test_lines_of_a_model_and_of_a_version(tmp_path: Path, content: str) -> None:
    lines = content.splitlines()
    of_digits = texts(tmp_path, content, Wanted("digits", others=KNOWN))
    assert of_digits
    assert not [line for line in of_digits if "digits_b" in line or "the node" in line.replace("of the node", "")]
    assert sum("other" in line for line in of_digits) == 1
    of_first = texts(tmp_path, content, Wanted("digits", "1.0", others=KNOWN))
    assert of_first == [line for line in of_digits if "2.0" not in line]
    assert texts(tmp_path, content, Wanted("digits_b", others=KNOWN)) == [line for line in lines if "digits_b" in line]
    assert texts(tmp_path, content, Wanted(others=KNOWN)) == lines
    assert texts(tmp_path, content, Wanted(others=KNOWN), 2) == lines[-2:]


@pytest.mark.parametrize("content", [TORCHSERVE, OWN, TRITON])
def test_lines_of_a_request(tmp_path: Path, content: str) -> None:
    found = texts(tmp_path, content, Wanted(request_id="abc", others=KNOWN))
    said = [line.rpartition("] ")[2] for line in found]
    assert said == ["failed", "Traceback (most recent call last):", "of a batch"]
    of_version = texts(tmp_path, content, Wanted("digits", "1.0", "abc", KNOWN))
    assert [line.rpartition("] ")[2] for line in of_version] == ["failed", "Traceback (most recent call last):"]


def test_an_entry_of_several_lines_stays_whole(tmp_path: Path) -> None:
    found = texts(tmp_path, OWN, Wanted("digits", "1.0", others=KNOWN))
    assert found[-2:] == ["2026-11-26 01:00:04,001 ERROR digits 1.0 cannot be started", "Traceback of the node"]
    content = "2026-11-26 01:00:01,001 ERROR m 1.0: reading request a/b failed\nTraceback\nKeyError\n" + OWN
    found = texts(tmp_path, content, Wanted(request_id="a/b", others=(*KNOWN, "m")))
    assert [line.split()[-1] for line in found] == ["failed", "Traceback", "KeyError"]


def test_rotated_files_are_read_in_their_order(tmp_path: Path) -> None:
    log = tmp_path / "model_log.log"
    lines = TORCHSERVE.splitlines()
    for number, name in enumerate(("model_log.2.log.gz", "model_log.1.log.gz")):
        with gzip.open(tmp_path / name, "wt") as file:
            file.write(f"{lines[number]}\n")
        os.utime(tmp_path / name, (number, number))
    log.write_text("\n".join(lines[2:]))
    (tmp_path / "other.1.log.gz").write_bytes(b"")
    assert [path.name for path in files_of(log)] == ["model_log.2.log.gz", "model_log.1.log.gz", "model_log.log"]
    assert [line.text for line in find_lines("n", [log], Wanted(), None, pytest.fail)] == lines
    older = tmp_path / "node.log.1"
    older.write_text(OWN)
    assert files_of(tmp_path / "node.log") == [older]
    (tmp_path / "model_log.1.log.gz").write_bytes(b"no gzip")
    warnings: list[str] = []
    left = find_lines("n", [log], Wanted(), None, warnings.append)
    assert [line.text for line in left] == [lines[0], *lines[2:]]
    assert "model_log.1.log.gz cannot be read" in warnings[0]


def test_new_lines_are_followed_over_a_rotation(tmp_path: Path) -> None:
    log = tmp_path / "node.log"
    log.write_text("before\n")
    later = tmp_path / "later.log"
    followers = [Follower("n", log, Wanted()), Follower("n", later, Wanted())]
    steps: list[Callable[[], None]] = []
    followed = follow(followers, lambda _: steps.pop(0)())

    def append() -> None:
        with log.open("a") as file:
            file.write("one\nhal")

    def rotate() -> None:
        with log.open("a") as file:
            file.write("f\n")
        log.rename(tmp_path / "node.log.1")
        log.write_text("new\n")
        later.write_text("late\n")

    def shorten() -> None:
        log.write_text("")

    def grow() -> None:
        log.write_text("x\n")

    steps += [append, rotate, shorten, grow]
    assert [next(followed).text for _ in range(5)] == ["one", "half", "new", "late", "x"]
    followers[0].close()
    followers[1].close()


def test_the_command_finds_the_lines_of_all_nodes_here(tmp_path: Path) -> None:
    (tmp_path / "archives").mkdir()
    (tmp_path / "deployment.yaml").write_text(
        "nodes:\n  one: {}\n"
        '  two: {engine: uvicorn, address: "http://127.0.0.1:9080"}\n'
        '  far: {engine: uvicorn, address: "http://192.0.2.7:9080"}\n'
        'models:\n  digits: {default: "1.0", versions: {"1.0": }}\n  digits_b: {default: "1.0", versions: {"1.0": }}\n'
    )
    never = run_command(["logs"], tmp_path, {}, 60)
    assert (never.status, "no node was ever started here" in never.err) == (4, True)
    for node, name, content in (("one", "model_log.log", TORCHSERVE), ("two", "node.log", OWN)):
        folder = tmp_path / ".tsctl" / "nodes" / node / "logs"
        folder.mkdir(parents=True)
        (folder / name).write_text(content)
    found = run_command(["logs", "digits:1.0", "--request", "abc", "--json"], tmp_path, {}, 60)
    lines = [json.loads(line) for line in found.out.splitlines()]
    assert [(line["node"], line["text"].rpartition("] ")[2]) for line in lines] == [
        ("one", "failed"),
        ("one", "Traceback (most recent call last):"),
        ("two", "failed"),
        ("two", "Traceback (most recent call last):"),
    ]
    assert lines[0]["file"] == ".tsctl/nodes/one/logs/model_log.log"
    last = run_command(["logs", "digits", "-n", "1"], tmp_path, {}, 60)
    assert last.out == "two: Traceback of the node\n"
    unknown = run_command(["logs", "nothing"], tmp_path, {}, 60)
    assert (unknown.status, "there is no model 'nothing'" in unknown.err) == (2, True)
    silent = run_command(["logs", "digits", "--request", "none", "--node", "one"], tmp_path, {}, 60)
    assert (silent.status, silent.out) == (0, "")
    assert "no line of request none in the logs of one" in silent.err
