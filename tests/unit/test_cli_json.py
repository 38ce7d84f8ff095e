"""--json: one document on standard output, whatever happens; text for people on the other stream."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from tests.support.commands import run_command
from tests.unit.test_cli_reference import CHECKOUT, commands
from tsctl.cli import output
from tsctl.cli.main import run, run_app
from tsctl.cli.models import Operation, _change_nodes
from tsctl.cli.options import Json
from tsctl.errors import NodeError, SpecError
from tsctl.nodes.fan_out import NodeChange

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


# ---- many nodes --------------------------------------------------------------------------------------------------


def change(names: str, broken: str, all_nodes: bool) -> None:
    """A change of these nodes, which fails on the broken ones."""
    nodes: list[Any] = [SimpleNamespace(name=name) for name in names]

    def act(node: Any, note: object) -> NodeChange:
        if node.name in broken:
            raise NodeError(f"node {node.name} refuses")
        return NodeChange("scaled", "2 ready")

    _change_nodes(nodes, all_nodes, Operation("scale", "scaling m 1.0 to 2", "m", "1.0", True), act)


def rows(document: dict[str, Any]) -> dict[str, str]:
    assert (document["operation"], document["model"], document["version"]) == ("scale", "m", "1.0")
    return {row["node"]: row["outcome"] for row in document["nodes"]}


@pytest.mark.parametrize(("names", "all_nodes"), [("a", False), ("a", True), ("ab", True)])
def test_a_change_has_one_shape_whatever_the_number_of_nodes(
    names: str, all_nodes: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    change(names, "", all_nodes)
    assert rows(json.loads(capsys.readouterr().out)) == dict.fromkeys(names, "scaled")
    with pytest.raises(NodeError) as caught:
        change(names, names[-1], all_nodes)
    assert caught.value.document is not None
    assert rows(dict(caught.value.document)) == {**dict.fromkeys(names, "scaled"), names[-1]: "failed"}
    assert capsys.readouterr().out == "", "the error's document is printed by the command line"


# ---- every command -----------------------------------------------------------------------------------------------

#: Commands without --json, and why.
WITHOUT = {
    "path": "prints one path",
    "serve": "a server",
    "metrics serve": "a server",
    "node logs": "prints files as they are",
}
PAGE = (CHECKOUT / "docs" / "scripting.md").read_text(encoding="utf-8")
#: What is given where a command wants something and "nothing" would be no example.
GIVEN = {"shares": "1.0=100%", "workers": "1", "share": "20", "sql": "SELECT 1", "file": "nothing.mar"}
LEAVES = {words: command for words, command in commands() if words not in WITHOUT}


def arguments(words: str, command: Any) -> list[str]:
    """A command line with all that the command requires."""
    given = words.split()
    if words == "schema":
        return [*given, "deployment", "--json"]
    for param in command.params:
        if param.required:
            value = GIVEN.get(param.name, "nothing")
            given += [value] if param.param_type_name == "argument" else [param.opts[0], value]
    return [*given, "--json"]


def test_the_commands_without_json_are_few() -> None:
    known = dict(commands())
    for words in WITHOUT:
        assert "--json" not in {option for param in known[words].params for option in param.opts}, words


@pytest.mark.parametrize("words", LEAVES)
def test_every_command_is_one_document_and_the_page_describes_it(
    words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "--json" in {option for param in LEAVES[words].params for option in param.opts}, f"tsctl {words}"
    assert re.search(rf"^\| [^|]*`{words}`[^|]*\|", PAGE, re.MULTILINE), f"docs/scripting.md has no document of {words}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TSCTL_PROJECT", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["tsctl", *arguments(words, LEAVES[words])])
    monkeypatch.setattr(output, "_has_printed", False)
    before = os.umask(0o022)
    try:
        with pytest.raises(SystemExit) as caught:
            run()
    finally:
        os.umask(before)
    streams = capsys.readouterr()
    document = json.loads(streams.out)
    code = caught.value.code or 0
    if isinstance(document, dict) and "error" in document:
        assert (document["code"], code != 0) == (code, True)
        assert document["error"].splitlines()[0] in streams.err
        assert isinstance(document["hint"], str)
    else:
        assert code in (0, 1), streams.err
