"""The page of a node's metrics: sums over files as workers leave them, and what answers at which path."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
import requests
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from tsctl.errors import NodeError, SpecError
from tsctl.monitoring.exporter import application, parse_listen, start_server, url_of
from tsctl.monitoring.worker_files import WorkerFiles, registry_of


class Folder:
    """A folder of workers' files and its page."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.warnings: list[str] = []
        self.registry = registry_of(WorkerFiles(path, self.warnings.append))

    def write(self, pid: int, value: float) -> Path:
        """What a worker of this pid leaves that counted `value` requests."""
        self.path.mkdir(exist_ok=True)
        path = self.path / f"counter_{pid}.db"
        file = MmapedDict(str(path))
        file.write_value(mmap_key("asked", "asked_total", ["model"], ["toy"], "Requests."), value, 0.0)
        file.close()
        return path

    @property
    def asked(self) -> float | None:
        return self.registry.get_sample_value("asked_total", {"model": "toy"})

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[str, dict[str, str], bytes]:
        """Status, headers and body that the application answers."""
        environ: dict[str, Any] = {"PATH_INFO": path, "REQUEST_METHOD": method}
        environ |= {f"HTTP_{name.upper()}": value for name, value in headers.items()}
        setup_testing_defaults(environ)
        said: list[Any] = []
        body = b"".join(application(self.registry)(environ, lambda *head: said.extend(head)))
        return said[0], dict(said[1]), body


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "metrics")


def test_files_of_all_workers_are_added_up_at_each_scrape(folder: Folder) -> None:
    assert folder.asked is None, "no folder yet"
    folder.write(1, 2.0)
    assert folder.asked == 2.0
    folder.write(2, 3.0)
    assert folder.asked == 5.0
    for path in folder.path.iterdir():
        path.unlink()
    assert folder.asked is None, "the node was started anew"
    folder.write(3, 1.0)
    assert folder.asked == 1.0
    assert folder.warnings == []


DAMAGED = {
    "cut off in its head": lambda content: content[:3],
    "cut off in an entry": lambda content: content[:20],
    "cut off before the value": lambda content: content[:-16],
    "counts more than it has": lambda content: b"\xff\xff\x00\x00" + content[4:],
    "no text": lambda content: content[:12] + b"\xff" * (len(content) - 12),
    "a length below zero": lambda content: content[:8] + b"\xe4\xff\xff\xff" + content[12:],
    "zeros": lambda content: content[:8] + bytes(len(content) - 8),
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_takes_its_own_numbers_only_and_is_told_once(folder: Folder, damage: Any) -> None:
    folder.write(1, 2.0)
    path = folder.write(2, 3.0)
    content = path.read_bytes()
    used = int.from_bytes(content[:4], "little")
    path.write_bytes(damage(content[:used]))
    folder.write(3, 4.0)
    assert [folder.asked for _ in range(3)] == [6.0, 6.0, 6.0]
    [warning] = folder.warnings
    assert warning.startswith(f"{path} cannot be read and is left out: ")
    path.write_bytes(damage(content[:used]) + b"\0")
    assert folder.asked == 6.0
    path.write_bytes(content)
    assert folder.asked == 9.0
    assert len(folder.warnings) == 1


def test_a_file_that_a_worker_is_making_is_no_damage(folder: Folder) -> None:
    folder.write(1, 2.0)
    (folder.path / "counter_2.db").touch()
    (folder.path / "counter_3.db").write_bytes(bytes(1 << 16))
    (folder.path / "notes.txt").write_text("not a worker's")
    assert folder.asked == 2.0
    assert folder.warnings == []


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "metrics").write_text("a file")
    with pytest.raises(NodeError, match="cannot be read: Not a directory"):
        Folder(tmp_path / "metrics").registry.get_sample_value("asked_total")


def test_the_page_comes_in_the_format_and_compression_that_the_client_asks_for(folder: Folder) -> None:
    folder.write(1, 2.0)
    status, headers, body = folder.get("/metrics")
    assert (status, headers["Content-Type"].split(";")[0]) == ("200 OK", "text/plain")
    assert b'asked_total{model="toy"} 2.0\n' in body
    _, headers, packed = folder.get("/metrics", accept_encoding="gzip")
    assert headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed) == body
    _, headers, body = folder.get("/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_the_page_has_nothing_of_the_exporting_process(folder: Folder) -> None:
    folder.write(1, 2.0)
    assert b"python_" not in folder.get("/metrics")[2]
    assert b"process_" not in folder.get("/metrics")[2]


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/healthz", "GET", "200 OK"),
        ("/", "GET", "404 Not Found"),
        ("/metrics/", "GET", "404 Not Found"),
        ("/metrics", "POST", "405 Method Not Allowed"),
    ],
)
def test_other_paths_and_methods(folder: Folder, path: str, method: str, status: str) -> None:
    assert folder.get(path, method)[0] == status


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:9464", ("127.0.0.1", 9464)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:9464", ("::1", 9464)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),  # noqa: S104 - only parsed
    ],
)
def test_addresses_to_listen_on(text: str, expected: tuple[str, int]) -> None:
    assert parse_listen(text) == expected


@pytest.mark.parametrize("text", ["", "9464", ":9464", "localhost", "localhost:", "::1:9464", "a:-1", "a:65536", "a:x"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="must be a host and a port"):
        parse_listen(text)


def test_a_port_in_use_is_told_with_what_to_do(folder: Folder) -> None:
    with start_server("127.0.0.1", 0, folder.registry) as taken:
        assert url_of(taken) == f"http://127.0.0.1:{taken.server_port}/metrics"
        with pytest.raises(NodeError, match=f"127.0.0.1, port {taken.server_port}, is in use") as caught:
            start_server("127.0.0.1", taken.server_port, folder.registry)
        taken.shutdown()
    assert "--listen" in caught.value.hint


def test_an_address_of_another_machine_cannot_be_opened(folder: Folder) -> None:
    with pytest.raises(NodeError, match=r"192\.0\.2\.1, port 9464, cannot be opened"):
        start_server("192.0.2.1", 9464, folder.registry)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_page_is_served_over_both_kinds_of_address(folder: Folder, host: str) -> None:
    folder.write(1, 2.0)
    with start_server(host, 0, folder.registry) as server:
        page = requests.get(url_of(server), timeout=10)
        health = requests.get(url_of(server).replace("/metrics", "/healthz"), timeout=10)
        server.shutdown()
    assert (page.status_code, health.status_code, health.text) == (200, 200, "ok\n")
    assert 'asked_total{model="toy"} 2.0' in page.text
