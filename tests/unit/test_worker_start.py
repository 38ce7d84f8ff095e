"""A worker's program runs as `python` would run it, after torch was imported without the garbage collector."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from handlers.contract import FORK_SERVER_OFF, FORK_SERVER_VARIABLE, RUN_MODULE, RUN_SCRIPT
from tsctl.nodes.torchserve.paths import NodePaths
from tsctl.nodes.torchserve.process import write_worker_python

TORCH = "import gc\nwas_collecting = gc.isenabled()\n"
PROGRAM = """
import gc, json, sys
import torch
main = sys.modules["__main__"]
print(json.dumps({
    "argv": sys.argv, "path": sys.path[0], "name": __name__, "is_main": main.__dict__ is globals(),
    "collects": gc.isenabled(), "was_collecting": getattr(torch, "was_collecting", "forked"),
}))
sys.exit(3)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Packages of a worker: a torch that is imported at once, and the worker's program."""
    made = tmp_path / "prö jekt"
    (made / "package").mkdir(parents=True)
    (made / "torch.py").write_text(TORCH)
    (made / "package" / "__init__.py").touch()
    (made / "package" / "model_service_worker.py").write_text(PROGRAM)
    return made


def said(command: Sequence[str], folder: Path) -> dict[str, Any]:
    """What the program printed; it ended with its own status."""
    environment = {"PYTHONPATH": str(folder), "LC_ALL": "C.UTF-8"}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 3, ended.stderr
    printed: dict[str, Any] = json.loads(ended.stdout)
    return printed


def test_a_module_runs_as_by_python_itself(folder: Path) -> None:
    words = ["package.model_service_worker", "7", "--version", "1.0"]
    plain = said([sys.executable, "-m", *words], folder)
    assert plain.pop("was_collecting")
    quick = said([sys.executable, "-c", RUN_MODULE, *words], folder)
    assert not quick.pop("was_collecting")
    assert plain.pop("path") == str(folder)
    assert quick.pop("path") == ""  # the same folder, by its other name
    assert quick == plain
    assert plain["collects"]
    assert plain["is_main"]


def test_torchserves_worker_runs_as_by_python_itself(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [str(folder / "package" / "model_service_worker.py"), "--sock-type", "unix"]
    plain = said([sys.executable, *words], folder)
    assert plain.pop("was_collecting")
    paths = [NodePaths(folder / name) for name in ("alone", "forking")]
    for path in paths:
        path.folder.mkdir()
    monkeypatch.setenv(FORK_SERVER_VARIABLE, FORK_SERVER_OFF)
    alone = write_worker_python(paths[0])
    monkeypatch.delenv(FORK_SERVER_VARIABLE)
    forking = write_worker_python(paths[1])  # with the real torch, which is there before PYTHONPATH is known
    for command, collected in (([sys.executable, "-c", RUN_SCRIPT], False), ([alone], False), ([forking], "forked")):
        quick = said([*command, *words], folder)
        assert quick.pop("was_collecting") == collected
        assert quick == plain
    assert plain["path"] == str(folder / "package")


def test_torchserves_other_programs_run_by_python_itself(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It installs packages with `-m pip`, and asks for a version."""
    paths = NodePaths(folder)
    command = [write_worker_python(paths), "-c", "import sys; print(sys.argv, sys.executable)", "a b"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed == f"['-c', 'a b'] {sys.executable}\n"
    monkeypatch.setattr("os.access", lambda *_: False)  # as on a disk that is mounted noexec
    assert write_worker_python(paths) == sys.executable
