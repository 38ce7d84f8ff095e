"""`tsctl archive diff` on real archives, which both run in the sandbox and answer the same requests."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.handlers.test_archive_verify import make, stock_archive
from tests.support.workers import CHECKOUT
from tsctl.archive.build import build_version, build_versions
from tsctl.archive.container import open_archive
from tsctl.archive.inspect import read_facts
from tsctl.cli.archive import app
from tsctl.compare.archives import ArchiveDiff, DiffOptions, diff_archives, requests_of
from tsctl.compare.diff import Compared
from tsctl.config.archive import read_archive_spec
from tsctl.config.project import Project
from tsctl.errors import ArchiveError, SpecError
from tsctl.host.progress import Progress

DIFFERENT = 14


def built(root: Path, **parts: str) -> Path:
    """An archive of the toy whose handler is right unless a part of it is replaced."""
    project = make(root, **parts)
    folder = project.archives / "toy"
    made = build_version(project, folder, read_archive_spec(folder / "archive.yaml"), "1.0", lambda _: None)
    return made.archive.path


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("right"))


def traffic(folder: Path, *bodies: Any, model: str = "toy", more: Sequence[Any] = ()) -> Path:
    """A capture of these bodies, and of more lines."""
    first = {"tsctl_capture": 1, "model": model, "begin": "", "seconds": 60, "requests": len(bodies) + len(more)}
    lines = [{"at_s": number, "request_id": f"id-{number}", "body": body} for number, body in enumerate(bodies)]
    lines += more
    path = folder / "traffic.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in (first, *lines)))
    return path


#: Bodies from 0 to 4: two batches of four, and one of one.
NUMBERS = tuple({"x": number / 2} for number in range(9))
#: A body that only its header explains: 0 once more.
PACKED = {
    "request_id": "packed",
    "headers": {"content-encoding": "gzip"},
    "body_base64": base64.b64encode(gzip.compress(b'{"x": 0}')).decode(),
}


def diffed(old: Path, new: Path, file: Path | None, **options: Any) -> ArchiveDiff:
    return diff_archives(old, new, DiffOptions(file, **options), Progress())


#: Other answers above 3; below 2, to all but the first of a batch; and at 2 by chance.
FAULTY = (
    "inputs * 2 + (inputs > 3) + torch.arange(len(inputs)).ne(0) * (inputs < 2)"
    " + (inputs == 2) * (1 + __import__('time').perf_counter_ns() % 1000003)"
)


def test_each_fault_of_a_new_version_is_counted_where_it_is_seen(
    right: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TSCTL_PROJECT", str(right.parents[2]))
    project = make(tmp_path, inference=FAULTY)
    folder = project.archives / "toy"
    with (folder / "archive.yaml").open("a") as file:
        file.write("tolerance: {absolute: 100.0}\n")  # the new version's own, so that its self-test passes
    new = build_version(project, folder, read_archive_spec(folder / "archive.yaml"), "1.0", lambda _: None).archive.path
    page = tmp_path / "diff.html"
    asked = ["diff", str(right), str(new), "--traffic", str(traffic(tmp_path, *NUMBERS, more=[PACKED]))]
    ended = CliRunner().invoke(app, [*asked, "--max-disagreement", "69.99%", "--html", str(page), "--json"])
    assert ended.exit_code == DIFFERENT, ended.output
    found = json.loads(ended.stdout)
    assert {kind: rate["differing"] for kind, rate in found["rates"].items()} == {
        "alone": 3, "batch": 7, "old_again": 0, "old_batch": 0, "new_again": 1, "new_batch": 5,
    }  # fmt: skip
    assert (found["is_within"], found["comparator"], found["requests"]) == (False, "json", 10)
    assert [each["request"] for each in found["examples"]] == ["id-4", "id-7", "id-8"]
    assert found["statuses"]["old"] == {"200": 10}
    assert "7 of 10 requests (70.00%) differently from toy 1.0, in a batch" in page.read_text()


def test_pictures_and_labels_of_the_real_archives() -> None:
    names = ["digits:1.0", "digits:2.0"]
    old, new = (each.archive.path for each in build_versions(Project(CHECKOUT), names, Progress()))
    found = diffed(old, new, None)
    assert type(found.diff.comparator).__name__ == "Label"
    assert found.diff.old.statuses == found.diff.new.statuses == {200: found.diff.requests}
    assert len(found.diff.old.alone_ms) == len(found.diff.new.alone_ms) == 2 * found.diff.requests
    assert min(found.diff.old.alone_ms) > 0
    assert found.diff.values.differing > 0, "other weights, other probabilities"
    assert found.diff.rates[Compared.OLD_BATCH].differing == 0


def test_an_archive_of_others_is_compared_too(right: Path, tmp_path: Path) -> None:
    old = stock_archive(tmp_path / "stock", "[{'y': 2.0 * body['x']} for body in bodies]")
    by_hand = tmp_path / "requests.jsonl"
    by_hand.write_text("".join(json.dumps({"body": body}) + "\n" for body in NUMBERS))
    found = diffed(old, right, by_hand)
    assert (found.old.model, found.new.model, found.diff.disagreement) == ("stock", "toy", 0.0)
    assert found.diff.old.statuses == found.diff.new.statuses == {200: 9}


def test_without_traffic_both_answer_the_samples_of_both(right: Path, tmp_path: Path) -> None:
    project = make(tmp_path)
    folder = project.archives / "toy"
    (folder / "samples" / "two.json").write_text('{"x": 7.0}')
    (folder / "samples" / "three.json").write_text('{"x": 8.0}')
    (folder / "golden" / "1.0.json").write_text('{"one.json":{"y":1.0},"two.json":{"y":14.0},"three.json":{"y":16.0}}')
    new = build_version(project, folder, read_archive_spec(folder / "archive.yaml"), "1.0", lambda _: None).archive.path
    with open_archive(right) as archive:
        facts = read_facts(archive)
    requests, source = requests_of(right, new, facts, DiffOptions())
    assert source == "4 samples of both archives"
    assert sorted(json.loads(request.body)["x"] for request in requests) == [-3.0, 0.5, 7.0, 8.0]
    few, source = requests_of(right, new, facts, DiffOptions(traffic(tmp_path, *NUMBERS), most=3))
    assert [request.name for request in few] == ["id-0", "id-3", "id-6"]
    assert source.startswith("3 of 9 requests of ")


def test_what_does_not_run_is_refused(right: Path, tmp_path: Path) -> None:
    file = traffic(tmp_path, *NUMBERS)
    broken = built(tmp_path / "broken", load="raise RuntimeError('no weights here')")
    with pytest.raises(ArchiveError, match=r"toy 1\.0 does not load: .*no weights here"):
        diffed(broken, right, file)
    dying = built(tmp_path / "dying", postprocess="import os; os._exit(3) if max(outputs) > 7 else None")
    with pytest.raises(ArchiveError, match=r"toy 1\.0 did not answer all requests: the process ended without a result"):
        diffed(dying, right, file)
    slow = built(tmp_path / "slow", postprocess="import time; time.sleep(60) if max(outputs) > 7 else None")
    with pytest.raises(ArchiveError, match="stopped after 10 s") as caught:
        diffed(slow, right, file, timeout_s=10.0)
    assert "--most" in caught.value.hint
    with pytest.raises(SpecError, match="has requests to digits, not to toy"):
        diffed(right, right, traffic(tmp_path, {"x": 1}, model="digits"))
    cut = tmp_path / "cut.mar"
    cut.write_bytes(right.read_bytes()[:-100])
    with pytest.raises(ArchiveError, match=r"cut\.mar does not run, because it failed verification: zip file"):
        diffed(cut, right, file)
    with pytest.raises(ArchiveError, match="no such file"):
        diffed(right, tmp_path / "none.mar", file)


def test_wrong_options_are_refused_before_anything_runs(right: Path) -> None:
    for options in (["--max-disagreement", "1000"], ["--field", "y"], ["--comparator", "same"]):
        ended = CliRunner().invoke(app, ["diff", str(right), str(right), *options])
        assert isinstance(ended.exception, SpecError), ended.output
