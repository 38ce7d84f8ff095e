"""Status, history, explanation and watching of rollouts, on a terminal and in pipes."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from rich.console import Console

from tests.unit.rollout_journals import Writer, aborted, failed_to_load, promoted, rolled_back, with_outage
from tsctl.cli import rollout_views
from tsctl.errors import AnalysisError
from tsctl.rollout.decide.events import Entry
from tsctl.rollout.decide.windows import OutcomeCounts
from tsctl.rollout.run.journal_lines import read
from tsctl.views.rollout.follow import Snapshot, new_entries, snapshot
from tsctl.views.rollout.status import render_status, seconds_left
from tsctl.views.rollout.watch import watch_picture


def rendered(now: Snapshot | None, clock: float | None = None, width: int = 160) -> str:
    """The status as plain text, without the spaces at the ends of lines."""
    assert now is not None
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(render_status(now, now.written_at if clock is None else clock))
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def row(text: str, name: str) -> list[str]:
    """The words of the line that begins with this one."""
    return next(line.split() for line in text.splitlines() if line.startswith(name))


def in_step(folder: Path) -> Writer:
    """Two seconds of the first step, which gives the canary 10 of 100 requests a second."""
    writer = Writer(folder)
    writer.prepare()
    writer.begin(0)
    writer.ticks(2)
    return writer


@pytest.fixture
def rollouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of journals of digits, in a project that commands find."""
    monkeypatch.setenv("TSCTL_PROJECT", str(tmp_path))
    return tmp_path / ".tsctl" / "rollouts" / "digits"


# ---- status ----------------------------------------------------------------------------------------------------------


def test_the_status_of_a_step(tmp_path: Path) -> None:
    text = rendered(snapshot(in_step(tmp_path).entries))
    assert text.startswith("digits: 2.0 against 1.0")
    assert "step 1 of 3, 10% of the requests, held 2 s (minimum 4 s)" in text
    assert row(text, "1.0 ") == ["1.0", "stable", "90%", "180", "90.0"]
    assert row(text, "2.0 ") == ["2.0", "canary", "10%", "20", "10.0"]
    assert row(text[text.index("EVENT") :], "errors")[:5] == ["errors", "1.0", "2", "180", "1.11%"]
    assert row(text, "average")[2] == "100", "1 / alpha"
    assert "undecided: about 30 more requests of the canary, 3 s at the present rate" in text


def test_the_status_fits_on_a_terminal_of_eighty_columns(tmp_path: Path) -> None:
    text = rendered(snapshot(rolled_back(tmp_path).entries), width=80)
    assert "…" not in text and max(map(len, text.splitlines())) <= 80


def test_a_signal_that_has_reached_its_threshold_says_so(tmp_path: Path) -> None:
    text = rendered(snapshot(rolled_back(tmp_path).entries))
    assert row(text, "average")[-2:] == ["reached", "━" * 16]
    assert "digits 2.0 was rolled back, by errors" in text


def test_an_outage_is_shown_while_it_lasts(tmp_path: Path) -> None:
    entries = with_outage(tmp_path).entries
    last = next(entry.seq for entry in reversed(entries) if entry.kind == "waits")
    assert "waiting: the gateway does not answer" in rendered(snapshot(entries[: last + 1]))
    assert "waiting" not in rendered(snapshot(entries))


def test_a_paused_rollout_says_how_it_goes_on(tmp_path: Path) -> None:
    writer = in_step(tmp_path)
    writer.tell("asked", what="pause", by="bob@desk")
    assert "paused; to go on: tsctl rollout resume digits" in rendered(snapshot(writer.entries))


def test_a_rollout_without_a_runner_is_recognised_by_its_silence(tmp_path: Path) -> None:
    now = snapshot(in_step(tmp_path).entries)
    assert now is not None
    assert "no journal entry" not in rendered(now, now.written_at + 20)
    assert "no journal entry for 2 min; if no tsctl runs it" in rendered(now, now.written_at + 120)


def test_time_left_is_that_of_what_takes_longest(tmp_path: Path) -> None:
    writer = in_step(tmp_path)
    now = snapshot(writer.entries)
    assert now is not None and now.rates == pytest.approx((90, 10))
    assert seconds_left(now, now.state.judgement) == pytest.approx(3), "30 requests at 10 a second; the hold takes 2 s"
    for _ in range(61):
        writer.tick(OutcomeCounts(), OutcomeCounts())
    now = snapshot(writer.entries)
    assert now is not None and now.rates == (0, 0)
    assert seconds_left(now, now.state.judgement) is None
    assert "and there is no traffic now" in rendered(now)


def test_a_journal_without_a_recorded_judgement_says_so() -> None:
    entries = read(Path(__file__).parent / "data" / "journals" / "aborted.jsonl")
    assert "the journal records no judgement" in rendered(snapshot(entries))


# ---- following a file ------------------------------------------------------------------------------------------------


def test_a_line_is_read_once_and_only_when_it_is_whole(tmp_path: Path) -> None:
    writer = in_step(tmp_path)
    content = writer.path.read_bytes()
    part = tmp_path / "part.jsonl"
    journal, entries = new_entries(part), list[Entry]()
    for end in range(0, len(content), 97):
        part.write_bytes(content[:end])
        entries += next(journal)
    part.write_bytes(content)
    assert [*entries, *next(journal)] == next(new_entries(writer.path)) and not next(journal)
    assert [entry.seq for entry in entries] == list(range(len(entries)))


def test_a_damaged_line_is_refused_with_its_number(tmp_path: Path) -> None:
    writer = in_step(tmp_path)
    lines = writer.path.read_bytes().splitlines(keepends=True)
    writer.path.write_bytes(b"".join([*lines[:2], b"{}\n"]))
    with pytest.raises(AnalysisError, match="line 3: not an entry"):
        next(new_entries(writer.path))
    writer.path.write_bytes(b"".join([lines[0], lines[2]]))
    with pytest.raises(AnalysisError, match="line 2: numbered 2"):
        next(new_entries(writer.path))
    with pytest.raises(AnalysisError, match="is gone"):
        next(new_entries(tmp_path / "none.jsonl"))


# ---- commands --------------------------------------------------------------------------------------------------------


def test_without_a_rollout_every_command_says_how_to_begin_one(rollouts: Path) -> None:
    for command in (rollout_views.status, rollout_views.watch, rollout_views.explain, rollout_views.report):
        with pytest.raises(AnalysisError) as error:
            command("digits")
        assert "tsctl rollout start digits VERSION" in error.value.hint
    with pytest.raises(AnalysisError, match="there is no rollout"):
        rollout_views.status()


def test_a_journal_whose_first_line_was_cut_off_is_no_rollout(rollouts: Path) -> None:
    rollouts.mkdir(parents=True)
    (rollouts / "20261125T000000Z-2.0.jsonl").write_bytes(b'{"seq":0,"at":1')
    with pytest.raises(AnalysisError, match="there is no rollout of digits"):
        rollout_views.status("digits")


def test_status_as_json_is_the_state(rollouts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    writer = in_step(rollouts)
    rollout_views.status("digits", json=True)
    status = json.loads(capsys.readouterr().out)
    assert (status["id"], status["weight"], status["judgement"]["needed"]) == (writer.journal.id, 1000, 30)
    rollout_views.status(json=True)
    assert json.loads(capsys.readouterr().out) == [status]


def test_status_of_all_models_shows_what_is_in_progress(rollouts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    promoted(rollouts)
    rollout_views.status()
    assert "no rollout is in progress" in capsys.readouterr().out
    Writer(rollouts.parent / "words", model="words")
    rollout_views.status()
    text = capsys.readouterr().out
    assert "words: 2.0 against 1.0" in text and "digits" not in text
    assert "before the first step: verify, register, golden samples are to come" in text


def test_history_has_a_line_for_each(rollouts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rollout_views.history()
    assert "no rollout yet" in capsys.readouterr().out
    promoted(rollouts)
    rolled_back(rollouts, begin=1_795_600_000.0)
    rollout_views.history("digits")
    head, good, bad = capsys.readouterr().out.splitlines()
    names = "ID MODEL FROM TO OUTCOME FAILED BY CANARY REQUESTS DURATION STARTED"
    assert head.split() == names.split()
    assert good.split()[1:6] == ["digits", "1.0", "2.0", "promoted", "960"]
    assert "rolled back  errors" in bad
    rollout_views.history(json=True)
    assert [rollout["outcome"] for rollout in json.loads(capsys.readouterr().out)] == ["promoted", "rolled back"]


def test_history_shows_the_others_where_one_is_damaged(rollouts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    promoted(rollouts)
    (rollouts / "20261126T000000Z-3.0.jsonl").write_bytes(b"?\n")
    with pytest.raises(AnalysisError, match=r"3\.0\.jsonl, line 1"):
        rollout_views.history()
    assert "promoted" in capsys.readouterr().out


def test_explain_prints_the_evidence_below_each_verdict(rollouts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rolled_back(rollouts)
    rollout_views.explain("digits")
    text = capsys.readouterr().out
    assert "Step 1 passed" in text and "Step 2 failed" in text
    assert all(line == line.rstrip() for line in text.splitlines())
    assert text.count("SIGNAL") == text.count("EVENT") == 2
    rollout_views.explain("digits", json=True)
    story = json.loads(capsys.readouterr().out)
    assert [line["judgement"]["verdict"] for line in story["told"] if line["judgement"]] == ["pass", "fail"]


def test_an_earlier_rollout_is_named_by_the_beginning_of_its_id(
    rollouts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = promoted(rollouts)
    rolled_back(rollouts, begin=1_795_600_000.0)
    rollout_views.explain("digits", first.journal.id[:-5])
    assert "was promoted" in capsys.readouterr().out
    rollout_views.explain("digits")
    assert "was rolled back" in capsys.readouterr().out
    with pytest.raises(AnalysisError, match="2 rollouts of digits begin with 2026"):
        rollout_views.explain("digits", "2026")
    with pytest.raises(AnalysisError, match="no rollouts of digits begin with 7"):
        rollout_views.explain("digits", "7")


def test_report_is_written_beside_the_journal_or_where_it_is_wanted(
    rollouts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = promoted(rollouts)
    rollout_views.report("digits")
    assert capsys.readouterr().out.strip() == f".tsctl/rollouts/digits/{writer.journal.id}.html"
    rollout_views.report("digits", out=tmp_path / "seen.html")
    assert (tmp_path / "seen.html").read_text(encoding="utf-8") == writer.path.with_suffix(".html").read_text(
        encoding="utf-8"
    )


# ---- watch -----------------------------------------------------------------------------------------------------------


def test_watch_prints_what_happens_and_ends_with_the_rollout(
    rollouts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    writer = in_step(rollouts)

    def go_on() -> None:
        writer.tell("asked", what="abort", by="bob@desk")
        writer.back("aborted", "")

    later = threading.Timer(0.7, go_on)
    later.start()
    with pytest.raises(typer.Exit) as ended:
        rollout_views.watch("digits")
    later.join()
    assert ended.value.exit_code == 10
    lines = capsys.readouterr().out.splitlines()
    assert "Step 1 of 3 began" in "\n".join(lines) and "bob@desk aborted the rollout." in lines[-5]
    assert "was aborted by bob@desk" in lines[-1]
    assert not any("tick" in line for line in lines)


def test_watch_of_a_promotion_ends_well(rollouts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    promoted(rollouts)
    rollout_views.watch("digits")
    assert "digits 2.0 was promoted" in capsys.readouterr().out
    rollout_views.watch("digits", json=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [lines[0]["kind"], lines[-1]["kind"]] == ["started", "ended"]
    assert {"pass"} == {line["judgement"]["verdict"] for line in lines if line["kind"] == "verdict"}


@pytest.mark.parametrize("write", [promoted, aborted, failed_to_load])
def test_watch_on_a_terminal_keeps_the_last_status(write: Callable[[Path], Writer], rollouts: Path) -> None:
    writer = write(rollouts)
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=40)
    state = watch_picture(writer.path, console)
    assert isinstance(console.file, io.StringIO)
    assert state.outcome is not None and "digits: 2.0 against 1.0" in console.file.getvalue()
    assert "\x1b[" in console.file.getvalue(), "colours on a terminal"
