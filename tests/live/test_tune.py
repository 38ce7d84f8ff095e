"""`tsctl tune` on a real node: a short search, interrupted and resumed, and what is left behind."""

from __future__ import annotations

import json
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from handlers.contract import FORK_SERVER_VARIABLE
from tests.support.sites import Site, copy_archives, processes_of, until, write_tiny
from tsctl.archive.named import archive_of_name
from tsctl.compare.nodes import own_project
from tsctl.compare.recorded import sample_requests
from tsctl.config.archive import read_archive_spec
from tsctl.config.project import Project
from tsctl.host.progress import quiet_progress
from tsctl.tune.measure import Invalid, Measurer
from tsctl.tune.variants import Variants, present_settings

#: A limit that is kept whatever the machine does, and loads that are as short as can be.
SHORT = ("--slo-p99-ms", "10000", "--engine", "uvicorn", "--seconds", "0.1", "--minutes", "20")


def test_a_search_is_interrupted_resumed_and_leaves_nothing_behind(site: Site) -> None:
    copy_archives(site, "breast_cancer")
    site.environment[FORK_SERVER_VARIABLE] = ""  # the node has its own, so that its workers' memory is its own
    before = (site.root / "archives" / "breast_cancer" / "archive.yaml").read_text()
    journal = site.root / ".tsctl" / "tune" / "breast_cancer-1.0.jsonl"
    with site.start("tune", "breast_cancer", *SHORT, "--trials", "3") as process:
        until(lambda: journal.is_file() and journal.read_text().count("\n") >= 2, 60, "the first trial")
        process.send_signal(signal.SIGTERM)  # as a supervisor does; Ctrl-C is the same to it
        try:
            _, err = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            pytest.fail("tune did not end after SIGTERM")
    assert process.returncode == 130
    assert "--resume goes on" in err
    done = journal.read_text().splitlines()[1:]
    stored = sorted(path.name for path in (site.root / "archives" / "store").glob("*.mar"))
    result = site.run("tune", "breast_cancer", *SHORT, "--trials", "3", "--resume", "--json")
    found = result.json()
    searched = [trial for trial in found["trials"] if trial["kind"] == "search"]
    assert len(searched) == 3
    assert [json.loads(line) for line in done] == found["trials"][: len(done)], (
        "what was measured is not measured again"
    )
    assert searched[0]["settings"] == found["space"]["present"]
    assert all(trial["scores"] and trial["scores"][0]["goodput_s"] > 0 for trial in searched), searched
    assert all(trial["scores"][0]["memory_bytes"] > 50 << 20 for trial in searched)
    assert {trial["settings"]["engine"] for trial in searched} == {"uvicorn"}
    assert found["verdict"]["sentence"]
    page = site.root / found["report"]
    assert "Goodput against p99" in page.read_text()
    assert found["written"] is None
    assert (site.root / "archives" / "breast_cancer" / "archive.yaml").read_text() == before
    assert sorted(path.name for path in (site.root / "archives" / "store").glob("*.mar")) == stored
    assert not (site.root / ".tsctl" / "nodes").exists()
    assert processes_of(site.root) == []


def test_better_settings_are_proved_and_written_and_bad_ones_are_invalid(site: Site, tmp_path: Path) -> None:
    """A batch takes a hundredth of a second whatever is in it, so larger batches and more workers answer far more."""
    write_tiny(site, "tiny", {"1.0": {"inference_s": 0.01}}, batch={"size": 1, "max_delay_ms": 1})
    path = site.root / "archives" / "tiny" / "archive.yaml"
    path.write_text(f"# of the test\n{path.read_text()}")
    found = site.run("tune", "tiny", *SHORT, "--trials", "5", "--write", "--json").json()
    verdict = found["verdict"]
    assert verdict["is_better"], verdict["sentence"]
    assert verdict["wins"] == verdict["rounds"] == 5
    assert verdict["gain"] > 1.5
    assert found["written"] == "archives/tiny/archive.yaml"
    serving = read_archive_spec(path).serving("1.0")
    assert path.read_text().startswith("# of the test\n")
    assert (serving.batch.size, serving.workers.min) == tuple(
        verdict["changes"].get(name, old) for name, old in (("batch", 1), ("workers", 1))
    )
    project, own = Project(site.root), own_project(Project(site.root), tmp_path / "own")
    archive = archive_of_name(project, "tiny", quiet_progress())
    variants = Variants(archive, tmp_path / "archive", own, 2, has_cache=False)
    present = present_settings(variants.facts, "uvicorn", None, 2)
    with Measurer(own, variants, sample_requests(archive), 10_000, 4) as measurer:
        assert measurer.measure(present, 0.2, lambda _: None).goodput_s > 0
        with pytest.raises(Invalid, match=r"self\.network"):
            measurer.measure(replace(present, compile=True), 0.2, lambda _: None)
        assert measurer.measure(present, 0.2, lambda _: None).goodput_s > 0
    assert processes_of(tmp_path) == []
