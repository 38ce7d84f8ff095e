"""--json: one document on standard output, whatever happens; text for people on the other stream."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.support.commands import run_command
from tsctl.cli import output
from tsctl.cli.main import run_app
from tsctl.cli.options import Json
from tsctl.errors import NodeError, SpecError

HINTED = SpecError("no such thing", "Make it.")


def ended(
    act: Callable[[], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[object, str, str]:
    """Exit code, standard output and standard error of a command that does this."""
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def it(json: Json = False) -> None:
        act()

    monkeypatch.setattr(sys, "argv", ["it", *arguments])
    monkeypatch.setattr(output, "_has_printed", False)
    before = os.umask(0o022)
    try:
        with pytest.raises(SystemExit) as caught:
            run_app(app, "it")
    finally:
        os.umask(before)
    streams = capsys.readouterr()
    return caught.value.code, streams.out, streams.err


def raising(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize(
    ("error", "document", "err"),
    [
        (
            HINTED,
            {"error": "no such thing", "hint": "Make it.", "code": 2},
            "error: no such thing\n       Make it.\n",
        ),
        (NodeError("a\nb"), {"error": "a\nb", "hint": "", "code": 4}, "error: a\nb\n"),
        (
            NodeError("not all", "Again.", {"nodes": [{"node": "a", "outcome": "scaled"}]}),
            {"nodes": [{"node": "a", "outcome": "scaled"}], "error": "not all", "hint": "Again.", "code": 4},
            "error: not all\n       Again.\n",
        ),
        (
            PermissionError(13, "Permission denied", "/a"),
            {"error": "/a: Permission denied", "hint": "", "code": 1},
            "error: /a: Permission denied\n",
        ),
        (KeyboardInterrupt(), {"error": "interrupted", "hint": "", "code": 130}, ""),
    ],
)
def test_an_error_is_a_document_too(
    error: BaseException,
    document: dict[str, Any],
    err: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, out, said = ended(raising(error), capsys, monkeypatch, "--json")
    assert (code, json.loads(out), said) == (document["code"], document, err)
    assert ended(raising(error), capsys, monkeypatch) == (document["code"], "", err), "and no document without --json"


def test_a_wrong_command_line_is_a_document_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = ended(lambda: None, capsys, monkeypatch, "--json", "-Q")
    assert (code, json.loads(out)) == (2, {"error": "No such option: -Q", "hint": "See --help.", "code": 2})
    assert "No such option: -Q" in err
    assert ended(lambda: None, capsys, monkeypatch, "--", "--json")[1] == "", "an argument after -- is no option"


def test_there_is_one_document_also_where_a_command_fails_after_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def act() -> None:
        output.print_json([{"is_good": False}])
        raise HINTED

    code, out, err = ended(act, capsys, monkeypatch, "--json")
    assert (code, json.loads(out)) == (2, [{"is_good": False}])
    assert err.startswith("error: no such thing")


def test_a_fault_of_tsctl_is_a_document_and_a_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "_has_printed", False)
    monkeypatch.setattr(sys, "argv", ["it", "--json"])
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def it(json: Json = False) -> None:
        raise ZeroDivisionError("of nothing")

    before = os.umask(0o022)
    try:
        with pytest.raises(ZeroDivisionError):
            run_app(app, "it")
    finally:
        os.umask(before)
    document = json.loads(capsys.readouterr().out)
    assert document == {"error": "ZeroDivisionError: of nothing", "hint": "This is a bug of tsctl.", "code": 1}


def test_a_build_reports_every_version(tmp_path: Path) -> None:
    for model in ("bad", "good", "wrong"):
        folder = tmp_path / "archives" / model
        for name in ("samples", "golden"):
            (folder / name).mkdir(parents=True)
        (folder / "handler.py").write_text("class Toy: pass\n")
        (folder / "samples" / "one.json").write_text("1")
        key = "handle" if model == "wrong" else "handler"
        (folder / "archive.yaml").write_text(f"model: {model}\n{key}: handler.py\nversions: {{'1.0': }}\n")
    (tmp_path / "archives" / "good" / "golden" / "1.0.json").write_text('{"one.json": 2}')
    result = run_command(["archive", "build", "--json"], tmp_path, {}, 60)
    rows = {row["model"]: row for row in result.json()}
    assert result.status == 3
    assert set(rows) == {"good", "bad", None}
    good = rows["good"]
    assert (good["version"], good["is_new"], good["error"], good["code"]) == ("1.0", True, None, 0)
    assert Path(good["path"]).is_file()
    assert (rows["bad"]["code"], rows["bad"]["digest"], rows["bad"]["path"]) == (3, None, None)
    assert "no golden answers" in rows["bad"]["error"]
    assert rows["bad"]["hint"].endswith("tsctl archive golden bad:1.0")
    assert (rows[None]["code"], "handle: unknown key" in rows[None]["error"]) == (2, True)
    assert "error: not all archives were built (1 built, 2 failed):" in result.err
    said = run_command(["archive", "build"], tmp_path, {}, 60)
    assert (said.status, said.out) == (3, "1 unchanged, 2 failed\n")
