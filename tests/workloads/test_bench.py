"""All targets of a workload give the same right answers; their speed is not tested."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.harness.scripts import run_script
from benchmarks.harness.workload import answers, started
from benchmarks.harness.wrk import run_wrk, write_script
from benchmarks.workloads.embeddings import embedding, embeddings_workload
from benchmarks.workloads.linear import build_linear
from benchmarks.workloads.overhead import FASTAPI, OURS, STOCK, overhead_workload, scores
from benchmarks.workloads.pictures import digit_pictures, import_failure, pictures_workload, probabilities
from tests.support.sites import CHECKOUT, quick_project
from tsctl.config.project import Project
from tsctl.errors import NodeError
from tsctl.host.progress import Progress

QUIET = Progress(Console(quiet=True))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return quick_project(tmp_path_factory.mktemp("bench") / "site", "digits", "embeddings")


def test_a_linear_layer_answers_alike_on_a_target_of_each_kind(project: Project, tmp_path: Path) -> None:
    linear = build_linear(project, tmp_path / "built", QUIET)
    whole = overhead_workload(project, linear, tmp_path)
    workload = replace(whole, targets=[target for target in whole.targets if target.name in (OURS, STOCK, FASTAPI)])
    row = json.loads(linear.sample)["row"]
    right = [sum(x * ((64 * i + j) / 640 - 0.5) for j, x in enumerate(row)) for i in range(10)]
    with started(workload, QUIET) as addresses:
        assert addresses.keys() == {OURS, STOCK, FASTAPI}
        for name, address in addresses.items():
            [answer] = answers(address, [linear.sample])
            assert scores(answer) == pytest.approx(right, abs=1e-4), name
        pids = {target.name: target.pids() for target in workload.targets}
        assert all(groups["server"] and groups["workers"] for groups in pids.values())
        script = write_script(tmp_path, addresses[FASTAPI].headers, [linear.sample, linear.sample])
        report, load_s = run_wrk(addresses[FASTAPI].url, script, 4, 1)
        assert report.requests > 0
        assert report.failed == 0
        assert load_s > 0
    assert all(not target.pids() for target in workload.targets), "what a workload started, it stops"
    empty = tmp_path / "alone"
    empty.mkdir()
    sample = linear.folder / "samples" / "row.json"
    options = {"archive": linear.archives["1.0"], "sample": sample, "folder": empty, "batch": 32, "turns": 3}
    alone = run_script("worker_alone.py", {**options, "batches": 10}, 60)
    assert alone["on_us"] > 0
    assert alone["off_us"] > 0
    with pytest.raises(NodeError, match=r"(?s)worker_alone\.py failed: .*FileExistsError"):
        run_script("worker_alone.py", {**options, "batches": 10}, 60)  # its folder is no longer empty


def test_sentences_are_embedded_alike_on_every_target(project: Project, tmp_path: Path) -> None:
    workload, _ = embeddings_workload(project, tmp_path, QUIET)
    sample = (CHECKOUT / "archives" / "embeddings" / "samples" / "sentence.json").read_bytes()
    golden = json.loads((CHECKOUT / "archives" / "embeddings" / "golden" / "1.0.json").read_text())["sentence.json"]
    with started(workload, QUIET) as addresses:
        for name, address in addresses.items():
            [answer] = answers(address, [sample])
            assert embedding(answer) == pytest.approx(embedding(golden), abs=1e-3), name
            for mixed in answers(address, workload.requests.bodies[4:12]):
                assert math.hypot(*embedding(mixed)) == pytest.approx(1.0, abs=1e-4), name


def test_digits_are_classified_alike_on_every_target(project: Project, tmp_path: Path) -> None:
    workload, _ = pictures_workload(project, tmp_path, QUIET)
    classes = [digit for _, digit in digit_pictures()][:60]
    with started(workload, QUIET) as addresses:
        for name, address in addresses.items():
            answered = [probabilities(answer) for answer in answers(address, workload.requests.bodies[:60])]
            right = sum(row.index(max(row)) == digit for row, digit in zip(answered, classes, strict=True))
            assert right >= 58, f"{name}: {right} of 60 digits are right"


def test_a_failed_import_has_its_reason() -> None:
    assert import_failure("json") == ""
    assert import_failure("no_such_module") == "ModuleNotFoundError: No module named 'no_such_module'"
