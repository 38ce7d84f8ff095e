"""Recovery of a node: old bytes stay, a dead worker is replaced beside one that serves, nothing is left half-done."""

from __future__ import annotations

import json
import signal

import yaml

from tests.support.sites import HALF, TINY, Site, kill_for_good, until, write_tiny


def test_bytes_that_do_not_load_leave_the_old_ones_serving(shared: Site) -> None:
    write_tiny(shared, "tiny", {"1.0": {}, "2.0": {"factor": 3.0}})
    shared.deploy({"tiny": {"default": "1.0", "versions": {"1.0": None, "2.0": None}}})
    shared.run("up")
    write_tiny(shared, "tiny", {"1.0": {"factor": 9.0}, "2.0": {"factor": 3.0}}, golden=1.0)
    failed = shared.run("up", status=4)
    assert "tiny 1.0 serves what it served before, tiny-1.0-" in failed.err
    assert shared.ask("tiny", HALF).json() == {"y": 1.0}
    rows = shared.run("models", "list", "--json").json()
    assert [(row["version"], row["default"], row["ready"]) for row in rows] == [("1.0", True, 1), ("2.0", False, 1)]


def test_a_dead_worker_is_started_anew_beside_one_that_serves(shared: Site) -> None:
    trap = shared.root / "trap"
    write_tiny(shared, "tiny", {"1.0": {"fail_while": str(trap)}})
    shared.deploy({"tiny": {"default": "1.0", "versions": {"1.0": {"workers": 2}}}})
    shared.run("up")
    serving, victim = shared.workers("tiny", "1.0")
    trap.touch()
    kill_for_good(shared, victim)
    trap.unlink()
    shared.run("models", "scale", "tiny", "1.0", "2")
    now = shared.workers("tiny", "1.0")
    assert len(now) == 2
    assert serving in now, "the worker that served was not ended"


def test_an_interrupted_register_leaves_nothing_registered(shared: Site) -> None:
    write_tiny(shared, "tiny", {"1.0": {"load_s": 20}})
    shared.run("archive", "build")
    with shared.start("models", "register", "tiny:1.0") as process:
        until(lambda: shared.run("models", "list", "--json").json(), 20, "the version on the node")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    assert shared.run("models", "list", "--json").json() == []


def test_the_bulk_wire_and_torchserves_own_give_the_same_answers(shared: Site) -> None:
    write_tiny(shared, "tiny", {"1.0": {}, "2.0": {}})
    path = shared.root / "archives" / "tiny" / "archive.yaml"
    spec = yaml.safe_load(path.read_text())
    spec["versions"]["2.0"]["wire"] = "stock"
    path.write_text(yaml.safe_dump(spec))
    shared.deploy({"tiny": {"default": "1.0", "versions": {"1.0": None, "2.0": None}}})
    shared.run("up")
    log = shared.folder / "logs" / "model_log.log"

    def wires() -> dict[str, str]:  # TorchServe writes what a worker prints some time after it is READY
        lines = [line for line in log.read_text().splitlines() if "[TSCTL" in line and line.endswith("}")]
        reports = [json.loads(line.partition("[TSCTL LOAD] ")[2]) for line in lines][-2:]
        return {report["version"]: report["wire"] for report in reports}

    until(lambda: wires() == {"1.0": "bulk", "2.0": "stock"}, 10, "both reports")
    bodies = [HALF, b"", b"{", b'{"x": "y"}', b" " * 200_000 + HALF, b"x" * (2 << 20)]
    for body in bodies:
        bulk, stock = (shared.ask(f"tiny/{version}", body, **{"x-request-id": "same"}) for version in ("1.0", "2.0"))
        assert bulk.status_code == stock.status_code, body[:40]
        assert bulk.content.replace(b'"version":"1.0"', b"") == stock.content.replace(b'"version":"2.0"', b"")
        changing = {"x-request-id", "x-model-version", "date", "content-length"}
        assert {k: v for k, v in bulk.headers.items() if k.lower() not in changing} == {
            k: v for k, v in stock.headers.items() if k.lower() not in changing
        }


def test_a_worker_whose_device_failed_answers_and_starts_anew(shared: Site) -> None:
    write_tiny(shared, "tiny", {"1.0": {}})
    handler = shared.root / "archives" / "tiny" / "handler.py"
    broken = (
        'if 666.0 in inputs:\n            raise torch.AcceleratorError("device-side assert")\n        return inputs'
    )
    handler.write_text(handler.read_text().replace("return inputs", broken))
    shared.deploy(TINY)
    shared.run("up")
    [before] = shared.workers("tiny", "1.0")
    failed = shared.ask("tiny", b'{"x": 666}')
    assert (failed.status_code, failed.json()["detail"]) == (
        500, "The worker's device failed; the worker starts anew."
    )  # fmt: skip
    until(lambda: shared.workers("tiny", "1.0") not in ([before], []), 30, "another worker in place of the broken one")
    assert shared.ask("tiny", HALF).json() == {"y": 1.0}
