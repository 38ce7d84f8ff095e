"""`tsctl archive try`: which requests are sent, and what people and machines see of the answers."""

from __future__ import annotations

import json
import sys
from base64 import b64encode
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest

from handlers.contract import Tolerance
from tsctl.archive.attempt import Answer, Answers, Attempt, Body, bodies, in_batches
from tsctl.config.archive import ArchiveSpec
from tsctl.errors import SpecError
from tsctl.views.attempt import document, lines

SPEC = ArchiveSpec.model_validate({"model": "toy", "handler": "handler.py", "versions": {"1.0": {}}})
ONE, TWO, THREE = (Body(name, b"{}", "application/json") for name in ("one.json", "two.json", "three.json"))


def answer(status: int, content: bytes, media_type: str = "application/json", class_name: str | None = None) -> Answer:
    return Answer(status, media_type, b64encode(content), class_name)


def shown(*answers: Answer, golden: dict[str, Any] | None = None, **more: Any) -> list[str]:
    batch = Answers(list(answers), **{"failures": [], "first_ms": 9.0, "ms": 1.5, "stages": {"decode": 0.5}, **more})
    result = Attempt("", [batch], load_s=1.0, device="cpu")
    return list(lines(result, [[ONE, TWO, THREE][: len(answers)]], golden or {}, Tolerance(absolute=0.1)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "b.json").write_bytes(b"2")
    (tmp_path / "samples" / "a.png").write_bytes(b"1")
    (tmp_path / "else.abc").write_bytes(b"3")
    return tmp_path


def test_all_samples_are_tried(folder: Path) -> None:
    assert bodies(folder, SPEC, None, None) == [
        Body("a.png", b"1", "image/png"),
        Body("b.json", b"2", "application/json"),
    ]


def test_a_sample_goes_by_its_name_and_any_other_file_by_its_path(folder: Path) -> None:
    assert bodies(folder, SPEC, "b.json", None) == [Body("b.json", b"2", "application/json")]
    path = str(folder / "else.abc")
    assert bodies(folder, SPEC, path, "audio/wav") == [Body("else.abc", b"3", "audio/wav")]


def test_a_request_comes_from_standard_input(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(b"\xff")))
    assert bodies(folder, SPEC, "-", None) == [Body("standard input", b"\xff", "application/json")]


@pytest.mark.parametrize(
    ("sample", "message"), [("none.json", "neither a file nor a sample of toy"), ("else.abc", "says no media type")]
)
def test_a_request_that_cannot_be_read_is_refused(folder: Path, sample: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        bodies(folder, SPEC, sample if sample == "none.json" else str(folder / sample), None)


def test_a_model_without_samples_needs_a_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="has no sample"):
        bodies(tmp_path, SPEC, None, None)


def test_batches_are_full() -> None:
    assert in_batches([ONE, TWO, THREE], None) == [[ONE], [TWO], [THREE]]
    assert in_batches([ONE, TWO, THREE], 2) == [[ONE, TWO], [THREE, ONE]]
    assert in_batches([ONE], 3) == [[ONE, ONE, ONE]]


def test_an_answer_is_compared_with_its_golden_one() -> None:
    text = shown(answer(200, b'{"x": 1.05}', class_name="cat"), answer(200, b'{"x": 2}'), golden={
        "one.json": {"x": 1.0}, "two.json": {"x": 1.0},
    })  # fmt: skip
    assert text[1:3] == ["\none.json: 200 application/json, class cat, the golden answer", '  {"x": 1.05}']
    assert text[3].startswith("\ntwo.json: 200 application/json, is not the golden answer: ")
    assert text[-1] == "  a batch of 2: 1.50 ms (decode 0.50), the first time 9.00"


def test_a_long_answer_is_cut_and_bytes_are_counted() -> None:
    text = shown(answer(200, json.dumps("x" * 5000).encode()), answer(200, b"\x00\x01", "image/png"))
    assert text[2].endswith("... (5002 characters)")
    assert text[4] == "  2 bytes"


def test_what_the_author_prints_cannot_steer_the_terminal() -> None:
    text = shown(answer(500, b'"\x1b[2J"'), failures=["ValueError: \x1b[2J\nline"], ms=None, stages={})
    assert not any("\x1b" in line for line in text)
    assert text[-2:] == ["\nValueError: \\x1b[2J\nline", "  1 request: 9.00 ms"]


def test_machines_get_json_and_bytes_as_base64() -> None:
    batch = Answers([answer(200, b'{"x": 1}'), answer(200, b"\xff", "image/png")], [], 9.0, 1.5, {"decode": 0.5})
    [told] = document(Attempt("", [batch], load_s=1.0, device="cpu"), [[ONE, TWO]])["batches"]
    assert [each.get("body", each.get("body_base64")) for each in told["answers"]] == [{"x": 1}, "/w=="]
    assert told["stages_ms"] == {"decode": 0.5}
