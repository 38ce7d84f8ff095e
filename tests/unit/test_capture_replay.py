"""Captured requests are sent in their order and at their times, to the project's own places, and counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tests.unit.test_compare_figures import noted
from tsctl.capture import target
from tsctl.capture.replay import CONNECTIONS, LATE_MS, Summary, parse_speed, replay, send_times, summary
from tsctl.cli.main import app
from tsctl.compare.contender import endpoint_of
from tsctl.compare.load.order import LOST, Noted, Order
from tsctl.compare.recorded import RecordedRequest
from tsctl.errors import SpecError, TsctlError
from tsctl.views.capture import summary_lines

FIRST = '{"tsctl_capture": 1, "model": "toy", "begin": "2026-01-01T00:00:00Z", "seconds": 9, "requests": 2}\n'
LINES = '{"at_s": 3, "request_id": "a", "body": {}}\n{"at_s": 1, "request_id": "b", "body": {}}\n'


def request(name: str, at_s: float | None, **headers: str) -> RecordedRequest:
    return RecordedRequest(name, b"{}", "application/json", headers, at_s)


@pytest.mark.parametrize(("text", "speed"), [("2x", 2.0), ("0.5x", 0.5), ("10", 10.0), ("1", 1.0)])
def test_a_speed_is_a_factor(text: str, speed: float) -> None:
    assert parse_speed(text) == speed


@pytest.mark.parametrize("text", ["", "x", "0", "0x", "-1x", "2xx", "fast", "1e3", "nan", "inf", "10001x", "٢x"])
def test_what_is_no_speed_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match=r"such as 2x or 0\.5x"):
        parse_speed(text)


def test_requests_are_sent_in_the_order_in_which_they_came_and_so_much_faster() -> None:
    came = [request("b", 12.0), request("a", 10.0), request("c", 12.0)]
    ordered, times = send_times(Path("f"), came, 4.0)
    assert [each.name for each in ordered] == ["a", "b", "c"]
    assert times == [0.0, 0.5, 0.5]


def test_requests_without_times_and_years_of_sending_are_refused() -> None:
    with pytest.raises(SpecError, match="f: b has no at_s"):
        send_times(Path("f"), [request("a", 0.0), request("b", None)], 1.0)
    with pytest.raises(SpecError, match=r"sending f takes 11\.6 days; at most 7 are"):
        send_times(Path("f"), [request("a", 0.0), request("b", 1000.0)], 0.001)


def test_each_request_gets_an_id_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def run(order: Order, messages: list[bytes], times: list[float], may_stop: bool) -> Noted:
        given.extend([order, messages, times, may_stop])
        return noted([(0.0, 0.0, 0.001, 200, False)] * 2, 1.0)

    monkeypatch.setattr("tsctl.capture.replay.run_load", run)
    sent = [request("a", 0.0, **{"X-Request-Id": "a", "x-user": "ann"}), request("b", 1.0)]
    found = replay(endpoint_of("http://127.0.0.1:9/p", {"x-api-key": "k"}), sent, [0.0, 1.0], "run")
    order, messages, times, may_stop = given
    assert (order.connections, order.seconds, times, may_stop) == (2, 1.0, [0.0, 1.0], True)
    assert [message.lower().count(b"x-request-id: ") for message in messages] == [1, 1]
    assert b"x-request-id: run-1\r\n" in messages[0] and b"x-user: ann\r\n" in messages[0]
    assert b"x-request-id: run-2\r\n" in messages[1] and b"x-api-key: k\r\n" in messages[1]
    assert found.answered == {"200": 2}
    assert CONNECTIONS == 256


def test_the_summary_counts_from_the_times_at_which_requests_were_to_be_sent() -> None:
    rows = [
        (0.0, 0.0, 0.01, 200, False),
        (1.0, 1.5, 1.6, 200, False),
        (2.0, 2.0, 2.1, 503, True),
        (3.0, 3.0, 9.0, LOST, False),
    ]
    found = summary(noted(rows, 3.0), 5)
    assert found == Summary(
        requests=5, sent=4, answered={"none": 1, "200": 2, "503": 1}, p50_ms=600.0, p90_ms=None, p99_ms=None,
        most_ms=None, late=1, late_p99_ms=500.0, seconds=3.0, is_interrupted=True,
    )  # fmt: skip
    text = "\n".join(summary_lines(found))
    assert "600.0" in text and "failed" in text
    assert f"1 were sent more than {LATE_MS:g} ms late" in text
    assert "interrupted: 1 were not sent." in text


def test_a_summary_of_nothing_has_no_times() -> None:
    found = summary(noted([], 0.0), 2)
    assert (found.sent, found.p50_ms, found.late, found.is_interrupted) == (0, None, 0, True)
    assert list(summary_lines(found))


# ---- where to --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "found"), [("digits", ("digits", None)), ("digits/2.0", ("digits", "2.0"))])
def test_a_target_is_a_model_or_a_version(text: str, found: tuple[str, str | None]) -> None:
    assert target.parse_to(text) == found


@pytest.mark.parametrize("text", ["", "/", "digits/", "a/b/c", "digits:2.0", "../etc", "digits/all", "a b"])
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="expected MODEL or MODEL/VERSION"):
        target.parse_to(text)


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://a:1", "http://a", "http://a:1/path", "http://u:p@a:1"])
def test_an_address_is_plain_http_without_a_path(url: str) -> None:
    with pytest.raises(SpecError, match="--url"):
        target.url_target(url, None, "digits", None)


def test_an_address_gets_the_key_of_the_file_and_no_other(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("x-api-key: tsctl_abc\n")
    found = target.url_target("http://a:1/", key, "di.gits", "2.0").endpoint
    assert (found.host, found.port, found.path, found.headers) == (
        "a",
        1,
        "/predictions/di.gits/2.0",
        {"x-api-key": "tsctl_abc"},
    )
    assert target.url_target("http://a:1", None, "digits", None).endpoint.headers == {}
    assert [target.url_target(f"{scheme}://a:1", None, "digits", None).trusted for scheme in ("http", "https")] == [
        None,
        "",
    ]
    for content in ("", "two\nlines", "grün"):
        key.write_text(content, encoding="utf-8")
        with pytest.raises(SpecError, match="expected one key"):
            target.url_target("http://a:1", key, "digits", None)
    with pytest.raises(SpecError, match="expected one key"):
        target.url_target("http://a:1", tmp_path / "missing", "digits", None)


@pytest.mark.parametrize(
    ("address", "reached"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"), ("http://0.0.0.0:8000", "http://127.0.0.1:8000"),
        ("http://[::]:8000", "http://[::1]:8000"),
    ],
)  # fmt: skip
def test_a_listener_on_all_addresses_is_reached_at_this_machines(address: str, reached: str) -> None:
    assert target._reached(address) == reached


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project with a node that does not run, no gateway, and a capture."""
    (tmp_path / "archives").mkdir()
    node = {"engine": "uvicorn", "address": "http://127.0.0.1:9"}
    (tmp_path / "deployment.yaml").write_text(yaml.safe_dump({"nodes": {"one": node}, "models": {}}))
    (tmp_path / "toy.jsonl").write_text(FIRST + LINES)
    monkeypatch.setenv("TSCTL_PROJECT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--to", "other"), 2, "toy.jsonl has requests to toy, not to other"),
        (("--to", "toy", "--speed", "0"), 2, "--speed 0: expected 0.001x to 10000x"),
        (("--to", "toy"), 2, "deployment.yaml has no gateway"),
        (("--to", "toy/1.0", "--node", "two"), 2, "no node 'two'"),
        (("--to", "toy/1.0", "--node", "one"), 4, "one"),
        (("--to", "toy", "--node", "one", "--url", "http://a:1"), 2, "contradict each other"),
        (("--to", "toy", "--key-file", "k"), 2, "--key-file is for --url"),
        (("--to", "toy", "--url", "http://127.0.0.1:9"), 4, "the load on 127.0.0.1:9 failed: Connection refused"),
    ],
)
def test_a_wrong_replay_is_refused_before_anything_is_sent(
    project: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    result = CliRunner().invoke(app, ["replay", "toy.jsonl", *arguments])
    assert isinstance(result.exception, TsctlError), result.output
    assert (result.exception.exit_code, message in result.exception.message) == (code, True), result.exception.message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("toy",), "deployment.yaml has no model 'toy'"),
        (("../toy", "--from", "."), "'../toy' is no name of a model"),
        (("toy", "--from", "nowhere"), "--from nowhere: no such folder"),
    ],
)
def test_a_wrong_capture_is_refused(project: Path, arguments: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(app, ["capture", *arguments])
    assert isinstance(result.exception, SpecError)
    assert message in result.exception.message
