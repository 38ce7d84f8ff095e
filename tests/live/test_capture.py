"""Requests to a real node behind the real gateway are captured, sent again, and answered by another archive."""

from __future__ import annotations

import json
import signal
import stat
import time
from pathlib import Path
from typing import Any

from tests.support.gateways import Front, brought_up, with_gateway
from tests.support.sites import Site, make_site, until, write_tiny
from tsctl.compare.recorded import read_file

REQUESTS = 24
ALIKE, DIFFERENT, WRONG_INPUT, NODE, GATEWAY, NO_EVIDENCE, INTERRUPTED = 0, 14, 2, 4, 5, 6, 130
#: In a header of every client, and in no file.
SECRET = "a-secret-of-the-client"


def two_versions(root: Path) -> tuple[Site, str, str]:
    """A site with a gateway, and a model whose versions give other numbers; its inputs are recorded."""
    site = make_site(root)
    records = {"share": 1.0, "days": 1, "input_days": 1}
    write_tiny(site, "tiny", {"1.0": {"factor": 2.0}, "2.0": {"factor": 2.5}}, records=records)
    site.deploy({"tiny": {"default": "1.0", "versions": {"1.0": {"workers": 1}, "2.0": {"workers": 1}}}})
    return site, *with_gateway(site, {})


def ask_all(front: Front) -> list[str]:
    """Ask the gateway one by one; the ids of the requests, in their order."""
    names = [f"request-{number:03}" for number in range(REQUESTS)]
    for number, name in enumerate(names):
        body = json.dumps({"x": float(number)}).encode()
        headers = {"x-request-id": name, "authorization": f"Bearer {SECRET}"}
        assert front.ask("/predictions/tiny", body, **headers).status_code == 200
        time.sleep(0.01)
    return names


def captured(site: Site, path: Path, requests: int) -> dict[str, Any]:
    """The summary of a capture that has so many requests: workers write them a little later."""

    def has_all() -> dict[str, Any] | None:
        path.unlink(missing_ok=True)  # of fewer requests; a file that exists is not replaced
        ended = site.run("capture", "tiny", "--output", str(path), "--json", status=None)
        found: dict[str, Any] | None = ended.json() if ended.status == 0 else None
        return found if found is not None and found["requests"] == requests else None

    summary: dict[str, Any] = until(has_all, 30, f"a capture of {requests} requests")
    return summary


def recorded(site: Site, version: str) -> int:
    sql = f"SELECT count(*) AS n FROM records WHERE version = '{version}' AND request_id LIKE 'replay-%'"  # noqa: S608
    [row] = site.run("records", "query", sql, "--json").json()
    return int(row["n"])


def test_real_requests_are_captured_sent_again_and_answered_by_another_archive(tmp_path: Path) -> None:
    site, base, metrics = two_versions(tmp_path / "site")
    path = tmp_path / "tiny.jsonl"
    with brought_up(site, base, metrics) as front:
        nothing = site.run("capture", "tiny", status=NO_EVIDENCE)
        assert "input_days: 7" in nothing.err
        names = ask_all(front)
        summary = captured(site, path, REQUESTS)
        assert (summary["versions"], summary["recorded"]) == ({"1.0": REQUESTS}, {"1.0": 1.0, "2.0": 1.0})

        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert SECRET not in path.read_text() and front.key not in path.read_text()
        file = read_file(path)
        assert file.capture is not None and file.capture.model == "tiny"
        assert [request.name for request in file.requests] == names, "by the times at which they came"
        assert [json.loads(request.body) for request in file.requests] == [{"x": float(n)} for n in range(REQUESTS)]
        times = [request.at_s or 0.0 for request in file.requests]
        assert times[-1] - times[0] >= 0.01 * (REQUESTS - 1)

        missing = site.run("replay", str(path), "--to", "tiny/2.0", status=GATEWAY)
        assert "tsctl weights set tiny 1.0=100% 2.0=0%" in missing.err
        site.run("weights", "set", "tiny", "1.0=100%", "2.0=0%")
        sent = site.run("replay", str(path), "--to", "tiny/2.0", "--speed", "2x", "--json").json()
        assert (sent["sent"], sent["answered"], sent["is_interrupted"]) == (REQUESTS, {"200": REQUESTS}, False)
        assert 0 < sent["p50_ms"] <= sent["p99_ms"] <= sent["most_ms"]
        until(lambda: recorded(site, "2.0") == REQUESTS, 30, "the records of the replay, under ids of its own")
        table = site.run("replay", str(path), "--to", "tiny", "--node", "local", "--speed", "100x")
        assert f"{REQUESTS} requests in" in table.out
        until(lambda: recorded(site, "1.0") == REQUESTS, 30, "the records of the replay past the gateway")
        elsewhere = site.run("replay", str(path), "--to", "tiny", "--url", base, "--speed", "100x", "--json").json()
        assert elsewhere["answered"] == {"401": REQUESTS}, "no key is sent to an address that the caller names"

        slow = ("replay", str(path), "--to", "tiny", "--speed", "0.001x", "--json")
        with site.start(*slow) as process:
            until(lambda: recorded(site, "1.0") > REQUESTS, 60, "the record of the first request of a slow replay")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=120)
        assert process.returncode == INTERRUPTED, err
        stopped = json.loads(out)
        assert stopped["is_interrupted"] and 0 < stopped["sent"] < REQUESTS
        assert stopped["answered"] == {"200": stopped["sent"]}, "what was under way is waited for"

        assert "has no route to tiny 9.0" in site.run("replay", str(path), "--to", "tiny/9.0", status=GATEWAY).err
        assert "is not registered" in site.run(
            "replay", str(path), "--to", "tiny/9.0", "--node", "local", status=NODE
        ).err  # fmt: skip
        site.run("gateway", "stop")
        assert "does not run" in site.run("replay", str(path), "--to", "tiny", status=GATEWAY).err

    other = site.run("archive", "diff", "tiny:1.0", "tiny:2.0", "--traffic", str(path), "--json", status=DIFFERENT)
    found = other.json()
    assert (found["requests"], found["rates"]["alone"]["differing"]) == (REQUESTS, REQUESTS - 1), (
        "0 times 2 is 0 times 2.5"
    )
    assert found["rates"]["batch"]["differing"] == REQUESTS - 1
    assert found["rates"]["old_again"]["differing"] == found["rates"]["new_batch"]["differing"] == 0
    assert found["examples"][0]["request"] == "request-001"
    same = site.run("archive", "diff", "tiny:1.0", "tiny:1.0", "--traffic", str(path), status=ALIKE)
    assert f"0 of {REQUESTS} requests" in same.out
