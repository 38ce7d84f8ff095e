"""A team's own package `handlers` beside tsctl's: in an archive, and in a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tsctl import CORE
from tsctl.archive.build import build_version
from tsctl.archive.container import open_archive
from tsctl.archive.team_modules import is_blank
from tsctl.config.archive import read_archive_spec
from tsctl.config.project import Project
from tsctl.errors import ArchiveError

HANDLER = "from handlers.wording import GREETING\n\n\nclass Toy:\n    greeting = GREETING\n"
WORDING = "GREETING = 'hello'\n"


def make(root: Path, modules: dict[str, str], code: str = HANDLER, **spec: object) -> tuple[Project, Path]:
    """A project with a package `handlers` of these modules, to which its archive has a link."""
    folder = root / "archives" / "toy"
    for name in ("samples", "golden"):
        (folder / name).mkdir(parents=True)
    (folder / "samples" / "one.json").write_text("1")
    (folder / "golden" / "1.0.json").write_text('{"one.json": 2}')
    (folder / "handler.py").write_text(code)
    (root / "handlers").mkdir()
    for name, content in modules.items():
        (root / "handlers" / name).write_text(content)
    (folder / "handlers").symlink_to("../../handlers")
    named = {"model": "toy", "handler": "handler.py", "versions": {"1.0": None}, **spec}
    (folder / "archive.yaml").write_text(yaml.safe_dump(named))
    return Project(root), folder


def entries(project: Project, folder: Path) -> dict[str, bytes]:
    made = build_version(project, folder, read_archive_spec(folder / "archive.yaml"), "1.0", lambda _: None)
    with open_archive(made.archive.path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize(
    "init", [None, "", '"""Ours."""\n', "from pkgutil import extend_path\n__path__ = extend_path([], '')\n"]
)
def test_an_archive_has_the_teams_modules_beside_the_cores(tmp_path: Path, init: str | None) -> None:
    modules = {"wording.py": WORDING, **({} if init is None else {"__init__.py": init})}
    packed = entries(*make(tmp_path, modules, files=["handlers"]))
    assert packed["handlers/wording.py"].decode() == WORDING
    assert packed["handlers/__init__.py"] == (CORE / "__init__.py").read_bytes()
    assert packed["handlers/base.py"] == (CORE / "base.py").read_bytes()


def test_the_handler_may_be_a_module_of_the_team(tmp_path: Path) -> None:
    modules = {"greeter.py": HANDLER, "wording.py": WORDING}
    packed = entries(*make(tmp_path, modules, handler="handlers.greeter", files=["handlers"]))
    assert b"handler: handlers.greeter\n" in packed["model-config.yaml"]


FAULTS = {
    "a module of the core": ({"base.py": ""}, "handlers/base.py in the archive, which is a module of tsctl's own"),
    "an init that does something": ({"__init__.py": "import os\n"}, "handlers/__init__.py in the archive"),
}


@pytest.mark.parametrize(("modules", "message"), FAULTS.values(), ids=FAULTS)
def test_no_file_of_a_team_replaces_one_of_the_core(tmp_path: Path, modules: dict[str, str], message: str) -> None:
    with pytest.raises(ArchiveError, match=message) as raised:
        entries(*make(tmp_path, {"wording.py": WORDING, **modules}, files=["handlers"]))
    assert "files: [handlers/wording.py]" in raised.value.hint


def test_one_file_of_a_team_can_be_named_alone(tmp_path: Path) -> None:
    modules = {"wording.py": WORDING, "base.py": "", "__init__.py": "import os\n"}
    packed = entries(*make(tmp_path, modules, files=["handlers/wording.py"]))
    assert packed["handlers/base.py"] == (CORE / "base.py").read_bytes()


MISSING = {
    "from": ("from handlers.wording import GREETING", "handlers.wording"),
    "import": ("import handlers.wording.deep", "handlers.wording.deep"),
    "from the package": ("from handlers import wording", "handlers.wording"),
    "in a function": ("def load():\n    import handlers.wording", "handlers.wording"),
}


@pytest.mark.parametrize(("line", "module"), MISSING.values(), ids=MISSING)
def test_a_module_that_no_worker_would_find_is_named_when_the_archive_is_built(
    tmp_path: Path, line: str, module: str
) -> None:
    project, folder = make(tmp_path, {"wording.py": WORDING}, code=f"{line}\n\n\nclass Toy:\n    pass\n")
    with pytest.raises(ArchiveError, match=f"handler.py imports {module}, which is neither") as raised:
        entries(project, folder)
    place = module.replace(".", "/") + ".py"
    assert str(folder / place) in raised.value.hint and f"files: [{place}]" in raised.value.hint


@pytest.mark.parametrize("line", [
    "try:\n    import handlers.wording\nexcept ImportError:\n    pass",
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import handlers.wording",
    "from handlers import ServingHandler, base",
    "from handlers.base import ServingHandler",
    "import handlers",
])  # fmt: skip
def test_imports_that_may_fail_or_are_the_cores_are_no_fault(tmp_path: Path, line: str) -> None:
    project, folder = make(tmp_path, {"wording.py": WORDING}, code=f"{line}\n\n\nclass Toy:\n    pass\n")
    assert "handler.py" in entries(project, folder)


def test_what_is_no_python_is_not_blank(tmp_path: Path) -> None:
    path = tmp_path / "__init__.py"
    path.write_text("def")
    assert not is_blank(path)


def run(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """A process in the folder, which is first on its path; tsctl comes last, as an installed one does."""
    site = folder / "site"
    site.mkdir()
    (site / "tsctl").symlink_to(CORE.with_name("tsctl"))
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", f"import sys; sys.path.append({str(site)!r}); {code}"]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=60, check=False)


ORDERS = ("import tsctl.cli.main, handlers.wording", "import handlers.wording, tsctl.cli.main")


@pytest.mark.parametrize("init", [None, "NAME = 'theirs'\n"])
@pytest.mark.parametrize("order", ORDERS)
def test_both_are_importable_in_a_process_whichever_comes_first(tmp_path: Path, order: str, init: str | None) -> None:
    make(tmp_path, {"wording.py": WORDING, **({} if init is None else {"__init__.py": init})})
    ended = run(tmp_path, f"{order}, handlers.contract; print(handlers.wording.GREETING, handlers.contract.JSON)")
    assert ended.stdout == "hello application/json\n", ended.stderr


def test_a_module_of_theirs_with_a_name_that_tsctl_needs_is_named(tmp_path: Path) -> None:
    make(tmp_path, {"__init__.py": "", "contract.py": ""})
    ended = run(tmp_path, "import handlers, tsctl")
    assert "the module 'handlers.contract' of" in ended.stderr and "hides tsctl's own of that name" in ended.stderr


def test_the_command_line_does_not_import_a_package_of_the_folder_where_it_runs(tmp_path: Path) -> None:
    make(tmp_path, {"__init__.py": "raise ImportError('theirs')", "contract.py": "raise ImportError('theirs')"})
    ended = run(tmp_path, "sys.argv = ['tsctl', 'archive', 'list']; import tsctl.cli.main; tsctl.cli.main.run()")
    assert (ended.returncode, ended.stdout.split()[:2]) == (0, ["MODEL", "VERSION"]), ended.stderr
