"""The set-up script in small projects of their own: it really makes, keeps, changes and mends a .venv.

The projects need no package index: their lock names tiny wheels that lie in a folder beside them.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PYTHON = getattr(sys, "_base_executable", sys.executable)
TIMEOUT_S = 60

#: A build backend inside the project, because a real one would have to be installed first.
BACKEND = """
from wheels import write_wheel


def build_editable(folder, config_settings=None, metadata_directory=None):
    return write_wheel(folder, "tsctl", "0", "")
"""


def write_wheel(folder: Path | str, name: str, version: str, source: str) -> str:
    """A wheel with one module; returns its file name."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    file = f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(Path(folder) / file, "w") as wheel:
        for path, text in files.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f"{path},sha256={digest},{len(text.encode())}\n"
            wheel.writestr(path, text)
        wheel.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    return file


class SmallProject:
    """A folder with the set-up script, a lock and a backend, and what running it said."""

    def __init__(self, root: Path) -> None:
        self.root = root / "project"
        self.wheels = root / "wheels"
        self.wheels.mkdir()
        (self.root / "scripts").mkdir(parents=True)
        for name in ("bootstrap.py", "_display.py"):
            shutil.copy(CHECKOUT / "scripts" / name, self.root / "scripts" / name)
        (self.root / "backend.py").write_text(BACKEND)
        source = Path(__file__).read_text()
        function = source[source.index("def write_wheel") : source.index("class SmallProject")]
        imports = "import base64, hashlib, zipfile\nfrom pathlib import Path\n\n"
        (self.root / "wheels.py").write_text(imports + function)
        (self.root / "pyproject.toml").write_text(
            '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        )
        for name, version in (("first", "1.0"), ("second", "1.0"), ("second", "2.0")):
            write_wheel(self.wheels, name, version, f"version = {version!r}\n")
        self.lock("first==1.0", "second==1.0")

    def lock(self, *pins: str) -> None:
        (self.root / "requirements.lock").write_text("\n".join(pins) + "\n")

    def start(self, **environment: str) -> subprocess.Popen[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
        own = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels), "PIP_CONFIG_FILE": os.devnull, **environment}
        return subprocess.Popen(
            [PYTHON, "scripts/bootstrap.py"],
            cwd=self.root,
            env={**kept, **own},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, status: int = 0, **environment: str) -> str:
        """What it printed, both streams."""
        process = self.start(**environment)
        out, err = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == status, out + err
        return out + err

    def installed(self) -> dict[str, str]:
        """Versions of the tiny packages, as `.venv` itself tells them."""
        code = (
            "from importlib.metadata import distributions\n"
            "for d in distributions():\n    print(d.metadata['Name'], d.version)\n"
        )
        python = self.root / ".venv" / "bin" / "python"
        listed = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True).stdout
        return {name: version for name, version in (line.split() for line in listed.splitlines()) if name != "pip"}


@dataclass(frozen=True)
class Made:
    """A project that two runs set up at the same time, under settings that lead elsewhere, and what they printed."""

    project: SmallProject
    outputs: list[str]
    elsewhere: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("setup")
    project = SmallProject(root)
    elsewhere = root / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "first.py").write_text("raise ImportError('from PYTHONPATH')\n")
    settings = {"PIP_TARGET": str(elsewhere / "target"), "PIP_USER": "1", "PYTHONPATH": str(elsewhere)}
    processes = [project.start(**settings) for _ in range(2)]
    outputs = ["".join(process.communicate(timeout=TIMEOUT_S)) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    return Made(project, outputs, elsewhere)


@pytest.fixture
def project(made: Made) -> SmallProject:
    """The project, set up, with its lock as it was at first."""
    made.project.lock("first==1.0", "second==1.0")
    made.project.run()
    return made.project


def test_of_two_at_once_the_first_installs_and_the_second_waits_and_finds_it_done(made: Made) -> None:
    second, first = sorted(made.outputs, key=lambda output: "installing 2 packages ...\n" in output)
    assert "\033" not in first, "no terminal, no control characters"
    assert "waiting for another setup" in second
    assert second.startswith(".venv is ready, nothing to do\n")
    log = (made.project.root / ".venv" / "setup.log").read_text()
    assert "Successfully installed first-1.0 second-1.0" in log


def test_settings_that_lead_out_of_the_environment_are_not_followed(made: Made) -> None:
    installed = made.project.installed()
    assert (installed["first"], installed["second"], installed["tsctl"]) == ("1.0", "1.0", "0")
    assert [path.name for path in made.elsewhere.iterdir()] == ["first.py"]


def test_another_run_changes_nothing_and_is_quick(project: SmallProject) -> None:
    before = (project.root / ".venv" / "setup.log").stat()
    begin = time.monotonic()
    printed = project.run()
    assert time.monotonic() - begin < 0.5, "measured 0.05 s; the rest is for a busy machine"
    assert printed == ".venv is ready, nothing to do\n"
    assert (project.root / ".venv" / "setup.log").stat().st_mtime_ns == before.st_mtime_ns


def test_a_changed_lock_changes_versions_and_removes_what_it_dropped(project: SmallProject) -> None:
    extra = project.root / ".venv" / "kept"
    extra.touch()
    project.lock("second==2.0")
    project.run()
    installed = project.installed()
    assert installed["second"] == "2.0"
    assert "first" not in installed
    assert extra.exists(), "an update does not start over"


def test_a_package_that_cannot_be_had_fails_with_the_end_of_pips_output(made: Made) -> None:
    made.project.lock("first==1.0", "nowhere==1.0")
    printed = made.project.run(status=1)
    assert "No matching distribution found for nowhere==1.0" in printed
    assert str(made.project.root / ".venv" / "setup.log") in printed
    assert "run 'make setup' again" in printed
    assert not (made.project.root / ".venv" / "setup.stamp").exists()


def test_a_run_that_was_ended_leaves_no_stamp_and_the_next_one_starts_over(made: Made) -> None:
    project, venv = made.project, made.project.root / ".venv"
    project.lock("first==1.0", "second==1.0")
    (venv / "setup.stamp").unlink(missing_ok=True)
    process = project.start()
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("making .venv ..."):
            break
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130
    assert err.endswith("interrupted; 'make setup' starts over\n")
    assert not (venv / "setup.stamp").exists()
    assert "removing an incomplete .venv" in project.run()
    code = "import first; print(first.version)"
    imported = subprocess.run([venv / "bin" / "python", "-I", "-c", code], capture_output=True, text=True, check=True)
    assert imported.stdout == "1.0\n"
