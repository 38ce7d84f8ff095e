"""Records of a worker that generates text: one document for streams and whole answers, and stable's second answers."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from handlers.contract import (
    ASSIGNED_TRACK_HEADER,
    CHECK_ANSWER,
    CHECK_HEADER,
    COPIED_HEADER,
    JSON,
    RECORDS_FOLDER_VARIABLE,
    REPEAT_ALONE,
    REPEAT_BATCH,
)
from handlers.messages import Request
from handlers.record_files import INPUTS, RECORDS, REPEATS, record_files
from handlers.records.recorder import Recorder
from handlers.records.texts import text_document
from handlers.worker import text_startup
from tests.handlers.text.test_text_worker import HELLO, Site, serving
from tests.support.scripted import POISON


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    """Those that workers open; the test writes, and no thread does."""
    opened: list[Recorder] = []
    open_recorder = text_startup._open_recorder

    def opening(worker: Any) -> Recorder | None:
        if (recorder := open_recorder(worker)) is not None:
            opened.append(recorder)
        return recorder

    monkeypatch.setattr(text_startup, "_open_recorder", opening)
    monkeypatch.setattr(Recorder, "start", lambda self: None)
    return opened


@pytest.fixture
def site(tmp_path: Path, recorders: list[Recorder], monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv(RECORDS_FOLDER_VARIABLE, str(tmp_path / "records"))
    records = {"share": 1.0, "days": 30, "input_days": 1.0, "answers": True, "repeats": 1.0}
    made = serving(tmp_path / "toy", records=records)
    yield made
    made.worker.close()


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    records = folder / "records"
    files = [file for file in record_files(records) if file.kind == kind]
    return [json.loads(line) for file in files for line in (records / file.name).read_bytes().splitlines()]


def test_a_stream_and_an_answer_in_one_piece_have_the_same_record(
    site: Site, recorders: list[Recorder], tmp_path: Path
) -> None:
    site.answer(HELLO, x_tsctl_client="shop")
    site.answer({**HELLO, "stream": True})
    site.answer({**HELLO, "max_tokens": 2, "n": 2, "temperature": 0.5})
    recorders[0].flush()
    whole, stream, short = lines(tmp_path, RECORDS)
    assert (whole["client"], whole["status"]) == ("shop", 200)
    assert whole["answer"] == stream["answer"]
    assert (whole["answer_digest"], whole["text_digest"]) == (stream["answer_digest"], stream["text_digest"])
    assert json.loads(whole["answer"]) == {
        "text": "Hello", "prompt_tokens": 5, "answer_tokens": 6,
        "answers": [{"tokens": list("Hello"), "finish": "stop"}],
    }  # fmt: skip
    assert whole["outputs"] == {"prompt_tokens": 5.0, "answer_tokens": 6.0}
    assert (whole["categories"], stream["categories"]) == ({"stream": "false"}, {"stream": "true"})
    assert json.loads(short["answer"])["text"] == "He\n\nHe"
    assert short["numbers"] == {"prompt_tokens": 5.0, "max_tokens": 2.0, "temperature": 0.5, "n": 2.0}
    assert json.loads(lines(tmp_path, INPUTS)[0]["input"]) == HELLO


def test_what_has_no_text_is_recorded_with_its_error(site: Site, recorders: list[Recorder], tmp_path: Path) -> None:
    site.answer(b"{")
    site.answer({"prompt": chr(POISON)})
    site.answer(HELLO, **{CHECK_HEADER.replace("-", "_"): CHECK_ANSWER})  # no client sent it
    recorders[0].flush()
    unread, failed = lines(tmp_path, RECORDS)
    assert (unread["status"], unread["error"], "input_digest" in unread) == (400, "undecodable-body", False)
    assert (failed["status"], failed["error"], "input_digest" in failed) == (500, "model-failed", True)
    assert "text_digest" not in failed


def test_stable_answers_a_copied_request_again(site: Site, recorders: list[Recorder], tmp_path: Path) -> None:
    headers = {ASSIGNED_TRACK_HEADER: "stable", COPIED_HEADER: "1", "content-encoding": "gzip"}
    before = len(site.counts.seen)
    for number in range(8):
        body = gzip.compress(json.dumps({**HELLO, "stream": True}).encode())
        site.worker.submit(number, Request(body, JSON, headers, f"r-{number}"))
        site.wait(number)
    counted = len(site.counts.seen)
    recorders[0].flush()
    recorders[0].answer_again()
    again = lines(tmp_path, REPEATS)
    answered = lines(tmp_path, RECORDS)
    assert [line["repeat"] for line in again] == [REPEAT_ALONE] * 8 + [REPEAT_BATCH] * 8
    assert [line["answer"] for line in again] == [line["answer"] for line in answered] * 2
    assert counted > before
    assert len(site.counts.seen) == counted  # the second answers are not


def test_a_document_says_what_an_answer_is() -> None:
    document = json.loads(text_document([(["a", "b"], "stop"), ([], "length")], 3, 2))
    assert document["text"] == "ab\n\n"
    assert document["answers"][1] == {"tokens": [], "finish": "length"}
