"""Whatever the machine refuses is one line and an exit code, and what is written is whole and has the right rights."""

from __future__ import annotations

import json
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from tsctl.cli.main import run_app

HANDLER = "class Toy: pass\n"
SPEC = 'model: toy\nhandler: handler.py\nfiles: [w.bin]\nversions: {"1.0": }\n'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "prö jekt"
    for name in ("samples", "golden"):
        (root / "archives" / "toy" / name).mkdir(parents=True)
    folder = root / "archives" / "toy"
    (folder / "handler.py").write_text(HANDLER)
    (folder / "w.bin").write_bytes(b"w" * 100_000)
    (folder / "archive.yaml").write_text(SPEC)
    (folder / "samples" / "one.json").write_text("1")
    (folder / "golden" / "1.0.json").write_text('{"one.json": 2}')
    (root / "deployment.yaml").write_text("nodes: {a: {}}\n")
    return root


def tsctl(project: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    options.setdefault("stdout", subprocess.PIPE)
    own = {"PATH": os.environ["PATH"], "TSCTL_PROJECT": str(project), "PYTHONDONTWRITEBYTECODE": "1"}
    environment = {**own, **options.pop("env", {})}
    return subprocess.run(
        [sys.executable, "-m", "tsctl.cli.main", *arguments],
        env=environment, stderr=subprocess.PIPE, text=True, errors="replace", timeout=60, check=False, **options,
    )  # fmt: skip


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_disk_without_space_is_one_line_and_leaves_no_half_written_file(project: Path) -> None:
    before = set(files(project))
    limit = (50_000, 50_000)
    ended = tsctl(project, "archive", "build", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (1, "error: File too large")
    assert "Traceback" not in ended.stderr
    assert {path.name for path in set(files(project)) - before} <= {".1.0.lock", ".current.lock"}


def test_output_that_finds_no_space_is_one_line(project: Path) -> None:
    with Path("/dev/full").open("w") as full:
        ended = tsctl(project, "archive", "list", "--json", stdout=full)
    assert (ended.returncode, ended.stderr) == (1, "error: No space left on device\n")


def test_output_that_nobody_reads_ends_the_command_in_silence(project: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        ended = tsctl(project, "archive", "list", "--json", stdout=write)
    finally:
        os.close(write)
    assert (ended.returncode, ended.stderr) == (1, "")


@pytest.mark.parametrize("closed", [(0,), (1,), (0, 1), (0, 1, 2)])
def test_closed_streams_change_no_exit_code_and_no_file(project: Path, closed: tuple[int, ...]) -> None:
    def close() -> None:
        for number in closed:
            os.close(number)

    built = tsctl(project, "archive", "build", preexec_fn=close)
    assert (built.returncode, "Traceback" in built.stderr) == (0, False)
    again = tsctl(project, "archive", "build")
    assert "1 archive unchanged" in again.stdout + again.stderr  # the file is what its name's digest says
    refused = tsctl(project, "archive", "nonsense", preexec_fn=close)
    assert refused.returncode == 2


def test_a_file_where_a_folder_should_be_is_one_line_with_its_name(project: Path) -> None:
    (project / "archives" / "store").touch()
    ended = tsctl(project, "archive", "build")
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(f"error: {project}/archives/store")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(13, "Permission denied", "/a/b"), "error: /a/b: Permission denied"),
        (OSError(30, "Read-only file system", "/a/b"), "error: /a/b: Read-only file system"),
        (OSError(28, "No space left on device"), "error: No space left on device"),
        (TimeoutError(), "error: TimeoutError"),
    ],
)
def test_what_the_kernel_refuses_is_one_line(
    error: OSError, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def fail() -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["it"])
    before = os.umask(0o022)
    with pytest.raises(SystemExit) as ended:
        run_app(app, "it")
    os.umask(before)
    assert (ended.value.code, capsys.readouterr().err) == (1, f"{line}\n")


def test_tidy_removes_what_nothing_needs_and_only_shows_it_where_that_is_asked(project: Path) -> None:
    builds = project / "archives" / "store" / ".builds"
    for content in (b"1", b"2"):
        (project / "archives" / "toy" / "w.bin").write_bytes(content)
        assert tsctl(project, "archive", "build").returncode == 0
    for arguments, left in (("--dry-run", "--json"), 2), (("--json",), 1):
        ended = tsctl(project, "archive", "tidy", *arguments)
        assert ended.returncode == 0, ended.stderr
        uses = sorted(row["needed by"] for row in json.loads(ended.stdout))
        assert uses == ["nothing, so it is removed", "the current build"]
        assert len(list(builds.iterdir())) == left


def test_a_umask_of_000_gives_no_wider_rights(project: Path) -> None:
    before = set(files(project))
    ended = tsctl(project, "archive", "build", umask=0)
    assert ended.returncode == 0, ended.stderr
    written = set(files(project)) - before
    assert any(path.suffix == ".mar" for path in written)
    assert [path for path in written if stat.S_IMODE(path.stat().st_mode) & 0o022] == []
    assert stat.S_IMODE((project / "archives" / "store").stat().st_mode) & 0o022 == 0


@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8"])
@pytest.mark.parametrize("is_coerced", [True, False], ids=["coerced", "as it is"])
def test_any_locale_builds_and_names_files_of_any_name(project: Path, locale: str, is_coerced: bool) -> None:
    environment = {"LC_ALL": locale} | ({} if is_coerced else {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
    ended = tsctl(project, "archive", "build", env=environment)
    assert ended.returncode == 0, ended.stderr
    odd = project / "archives" / "toy" / os.fsdecode(b"samples/caf\xe9.json")
    odd.write_text("1")
    ended = tsctl(project, "archive", "build", env=environment)
    assert ended.returncode == 3
    assert "has a name that no archive can hold" in ended.stderr
    assert "Traceback" not in ended.stderr
