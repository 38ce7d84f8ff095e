"""The journal: on the disk before it counts, readable wherever a kill cut it off, and never quietly wrong."""

from __future__ import annotations

import json
import resource
import stat
from pathlib import Path

import pytest

from tsctl.config.project import Project
from tsctl.errors import AnalysisError, ConflictError
from tsctl.rollout.run.journal import (
    ENDED,
    REOPENED,
    STARTED,
    Journal,
    folder,
    journals,
    new_id,
    new_path,
    read,
    require_none,
    unfinished,
)


def written(path: Path) -> Journal:
    journal = Journal(path, lambda: 1000.0)
    journal.append(STARTED, id="x")
    journal.append("step", index=0, weight=500)
    journal.append("tick", held_s=1.5)
    return journal


def test_what_was_appended_is_read_back(tmp_path: Path) -> None:
    journal = written(tmp_path / "m" / "x.jsonl")
    found = read(journal.path)
    assert found == journal.entries == Journal(journal.path).entries
    assert [(entry.seq, entry.kind) for entry in found] == [(0, STARTED), (1, "step"), (2, "tick")]
    assert stat.S_IMODE(journal.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(journal.path.parent.stat().st_mode) == 0o700


def test_cut_off_at_any_byte_the_whole_lines_stay_and_writing_goes_on(tmp_path: Path) -> None:
    whole = written(tmp_path / "x.jsonl").path.read_bytes()
    ends = [n + 1 for n, byte in enumerate(whole) if byte == 0x0A]
    for length in range(len(whole) + 1):
        path = tmp_path / f"{length}.jsonl"
        path.write_bytes(whole[:length])
        journal = Journal(path)
        count = sum(end <= length for end in ends)
        assert len(journal.entries) == count
        journal.append("more")
        assert [entry.kind for entry in read(path)] == [*[STARTED, "step", "tick"][:count], "more"]


@pytest.mark.parametrize(("number", "line"), [
    (0, "{"), (1, "[]"), (1, '{"seq":1}'), (2, '{"seq":3,"at":1,"kind":"tick"}'), (0, "\x00\x00"), (1, "nan"),
])  # fmt: skip
def test_a_damaged_line_is_told_with_its_number(tmp_path: Path, number: int, line: str) -> None:
    path = written(tmp_path / "x.jsonl").path
    lines = path.read_text().splitlines()
    lines[number] = line
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(AnalysisError, match=f"line {number + 1}: "):
        read(path)


def test_a_full_disk_is_told_and_leaves_no_half_line(tmp_path: Path) -> None:
    journal = written(tmp_path / "x.jsonl")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (journal.path.stat().st_size + 20, before[1]))
    try:
        with pytest.raises(AnalysisError, match="cannot be written"):
            journal.append("more", why="x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(read(journal.path)) == len(journal.entries) == 3
    journal.append("more")
    assert [entry.seq for entry in read(journal.path)] == [0, 1, 2, 3]


def test_which_rollout_has_not_ended(tmp_path: Path) -> None:
    project = Project(tmp_path)
    assert unfinished(project, "m") is None
    first = Journal(folder(project, "m") / f"{new_id('2.0', 0)}.jsonl")
    first.append(STARTED)
    assert unfinished(project, "m") == "19700101T000000Z-2.0"
    with pytest.raises(ConflictError, match=r"the rollout 19700101T000000Z-2.0 of m has not ended"):
        require_none(project, "m")
    first.append(ENDED, outcome="promoted", why="")
    assert unfinished(project, "m") is None
    require_none(project, "m")
    first.append(REOPENED, by="me")
    assert unfinished(project, "m") == first.id
    first.append(ENDED, outcome="rolled back", why="")
    Journal(folder(project, "m") / f"{new_id('3.0', 60)}.jsonl").append(STARTED)
    Journal(folder(project, "other") / f"{new_id('1.0', 30)}.jsonl").append(STARTED)
    assert unfinished(project, "m") == "19700101T000100Z-3.0"
    assert [path.stem for path in journals(project)] == [
        "19700101T000000Z-2.0", "19700101T000030Z-1.0", "19700101T000100Z-3.0",
    ]  # fmt: skip
    assert json.loads(journals(project, "other")[0].read_text())["kind"] == STARTED


def test_a_new_journal_is_the_newest_whatever_the_clock_says(tmp_path: Path) -> None:
    project = Project(tmp_path)
    ids = []
    for now in (1000.0, 1000.0, 1000.5, 5.0, 2000.0):  # twice in a second, and a clock that was set back
        journal = Journal(new_path(project, "m", "2.0", now))
        journal.append(STARTED)
        ids.append(journal.id)
    assert ids == sorted(set(ids)) == [path.stem for path in journals(project, "m")]
    assert ids[-1] == new_id("2.0", 2000.0)
