"""What is compared answers rightly and alike, by every way; how fast it is, is no test's matter."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.harness.scripts import script_says
from benchmarks.harness.workload import answers, started
from benchmarks.harness.wrk import run_wrk, write_script
from benchmarks.workloads.embeddings import embedding, embeddings_workload
from benchmarks.workloads.linear import build_linear
from benchmarks.workloads.overhead import FASTAPI, STOCK, STOCK_HERE, overhead_workload, scores
from benchmarks.workloads.pictures import digit_pictures, import_mistake, pictures_workload, probabilities
from tests.support.sites import CHECKOUT
from tsctl.config.project import Project
from tsctl.errors import NodeError
from tsctl.host.progress import Progress

PROJECT = Project(CHECKOUT)
QUIET = Progress(Console(quiet=True))


def test_a_linear_layer_answers_alike_by_every_way(tmp_path: Path) -> None:
    linear = build_linear(PROJECT, tmp_path / "built", QUIET)
    workload = overhead_workload(PROJECT, linear, tmp_path)
    row = json.loads(linear.sample)["row"]
    right = [sum(x * ((64 * i + j) / 640 - 0.5) for j, x in enumerate(row)) for i in range(10)]
    with started(workload, QUIET) as addresses:
        assert {STOCK, STOCK_HERE, FASTAPI} < addresses.keys()
        for name, address in addresses.items():
            [answer] = answers(address, [linear.sample])
            assert scores(answer) == pytest.approx(right, abs=1e-4), name
        pids = {way.name: way.pids() for way in workload.ways}
        assert all(found["server"] and found["workers"] for found in pids.values())
        script = write_script(tmp_path, addresses[FASTAPI].headers, [linear.sample, linear.sample])
        printed, load_s = run_wrk(addresses[FASTAPI].url, script, 4, 1)
        assert printed.requests > 0
        assert printed.failed == 0
        assert load_s > 0
    assert all(not way.pids() for way in workload.ways), "what a workload started, it stops"
    empty = tmp_path / "alone"
    empty.mkdir()
    sample = linear.folder / "samples" / "row.json"
    options = {"archive": linear.archives["1.0"], "sample": sample, "folder": empty, "batch": 32, "turns": 3}
    alone = script_says("worker_alone.py", {**options, "batches": 10}, 60)
    assert alone["on_us"] > 0
    assert alone["off_us"] > 0
    with pytest.raises(NodeError, match=r"(?s)worker_alone\.py failed: .*FileExistsError"):
        script_says("worker_alone.py", {**options, "batches": 10}, 60)  # its folder is no longer empty


def test_sentences_are_embedded_alike_by_every_way(tmp_path: Path) -> None:
    workload, _ = embeddings_workload(PROJECT, tmp_path, QUIET)
    sample = (CHECKOUT / "archives" / "embeddings" / "samples" / "sentence.json").read_bytes()
    golden = json.loads((CHECKOUT / "archives" / "embeddings" / "golden" / "1.0.json").read_text())["sentence.json"]
    with started(workload, QUIET) as addresses:
        for name, address in addresses.items():
            [answer] = answers(address, [sample])
            assert embedding(answer) == pytest.approx(embedding(golden), abs=1e-3), name
            for mixed in answers(address, workload.traffic.bodies[4:12]):
                assert math.hypot(*embedding(mixed)) == pytest.approx(1.0, abs=1e-4), name


def test_digits_are_told_alike_by_every_way(tmp_path: Path) -> None:
    workload, _ = pictures_workload(PROJECT, tmp_path, QUIET)
    shown = [digit for _, digit in digit_pictures()][:60]
    with started(workload, QUIET) as addresses:
        for name, address in addresses.items():
            told = [probabilities(answer) for answer in answers(address, workload.traffic.bodies[:60])]
            right = sum(found.index(max(found)) == digit for found, digit in zip(told, shown, strict=True))
            assert right >= 58, f"{name}: {right} of 60 digits are right"


def test_what_cannot_be_imported_is_told_with_the_reason() -> None:
    assert import_mistake("json") == ""
    assert import_mistake("no_such_module") == "ModuleNotFoundError: No module named 'no_such_module'"
