"""Recovery of a node: old bytes stay, a dead worker is replaced beside one that serves, nothing is left half-done."""

from __future__ import annotations

import json
import os
import signal

import yaml

from tests.support.sites import HALF, TINY, Site, until, until_given_up, write_tiny


def test_bytes_that_do_not_load_leave_the_old_ones_serving(site: Site) -> None:
    write_tiny(site, "tiny", {"1.0": {}, "2.0": {"factor": 3.0}})
    site.deploy({"tiny": {"default": "1.0", "versions": {"1.0": None, "2.0": None}}})
    site.run("up")
    write_tiny(site, "tiny", {"1.0": {"factor": 9.0}, "2.0": {"factor": 3.0}}, golden=1.0)
    failed = site.run("up", status=4)
    assert "tiny 1.0 serves what it served before, tiny-1.0-" in failed.err
    assert site.ask("tiny", HALF).json() == {"y": 1.0}
    rows = site.run("models", "list", "--json").json()
    assert [(row["version"], row["default"], row["ready"]) for row in rows] == [("1.0", True, 1), ("2.0", False, 1)]


def test_a_dead_worker_is_started_anew_beside_one_that_serves(site: Site) -> None:
    trap = site.root / "trap"
    write_tiny(site, "tiny", {"1.0": {"fail_while": str(trap)}})
    site.deploy({"tiny": {"default": "1.0", "versions": {"1.0": {"workers": 2}}}})
    site.run("up")
    serving, victim = site.workers("tiny", "1.0")
    trap.touch()
    os.kill(victim, signal.SIGKILL)
    until_given_up(site)
    trap.unlink()
    site.run("models", "scale", "tiny", "1.0", "2")
    now = site.workers("tiny", "1.0")
    assert len(now) == 2
    assert serving in now, "the worker that served was not ended"


def test_an_interrupted_register_leaves_nothing_registered(site: Site) -> None:
    write_tiny(site, "tiny", {"1.0": {"load_s": 20}})
    site.run("archive", "build")
    site.run("node", "start")
    with site.start("models", "register", "tiny:1.0") as process:
        until(lambda: site.run("models", "list", "--json").json(), 20, "the version on the node")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    assert site.run("models", "list", "--json").json() == []


def test_the_bulk_wire_and_torchserves_own_give_the_same_answers(site: Site) -> None:
    write_tiny(site, "tiny", {"1.0": {}, "2.0": {}})
    path = site.root / "archives" / "tiny" / "archive.yaml"
    spec = yaml.safe_load(path.read_text())
    spec["versions"]["2.0"]["wire"] = "stock"
    path.write_text(yaml.safe_dump(spec))
    site.deploy({"tiny": {"default": "1.0", "versions": {"1.0": None, "2.0": None}}})
    site.run("up")
    log = site.folder / "logs" / "model_log.log"
    reports = [
        json.loads(line.partition("[TSCTL LOAD] ")[2]) for line in log.read_text().splitlines() if "[TSCTL" in line
    ]
    assert {report["version"]: report["wire"] for report in reports} == {"1.0": "bulk", "2.0": "stock"}
    bodies = [HALF, b"", b"{", b'{"x": "y"}', b" " * 200_000 + HALF, b"x" * (2 << 20)]
    for body in bodies:
        bulk, stock = (site.ask(f"tiny/{version}", body, **{"x-request-id": "same"}) for version in ("1.0", "2.0"))
        assert bulk.status_code == stock.status_code, body[:40]
        assert bulk.content.replace(b'"version":"1.0"', b"") == stock.content.replace(b'"version":"2.0"', b"")
        changing = {"x-request-id", "x-model-version", "date", "content-length"}
        assert {k: v for k, v in bulk.headers.items() if k.lower() not in changing} == {
            k: v for k, v in stock.headers.items() if k.lower() not in changing
        }


def test_a_worker_whose_device_failed_answers_and_starts_anew(site: Site) -> None:
    write_tiny(site, "tiny", {"1.0": {}})
    handler = site.root / "archives" / "tiny" / "handler.py"
    broken = (
        'if 666.0 in inputs:\n            raise torch.AcceleratorError("device-side assert")\n        return inputs'
    )
    handler.write_text(handler.read_text().replace("return inputs", broken))
    site.deploy(TINY)
    site.run("up")
    [before] = site.workers("tiny", "1.0")
    failed = site.ask("tiny", b'{"x": 666}')
    assert (failed.status_code, failed.json()["detail"]) == (
        500, "The worker's device failed; the worker starts anew."
    )  # fmt: skip
    until(lambda: site.workers("tiny", "1.0") not in ([before], []), 30, "another worker in place of the broken one")
    assert site.ask("tiny", HALF).json() == {"y": 1.0}
