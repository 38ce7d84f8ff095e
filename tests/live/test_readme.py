"""README.md and the page on handlers are typed in, step by step, in a copy of this checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.checkout import CHECKOUT, tracked_files
from tests.support.ports import free_ports
from tests.support.readme import FileStep, Step, matches, parse_readme, section_lines, substitute
from tests.support.sites import processes_of

PAGES = ("README.md", "docs/writing-a-handler.md")
TEXTS = {page: (CHECKOUT / page).read_text(encoding="utf-8") for page in PAGES}
#: A section of README.md that is typed elsewhere: test_wheel.py.
ELSEWHERE = {"README.md": section_lines(TEXTS["README.md"], "In your own repository")}
STEPS = [
    (page, step)
    for page, text in TEXTS.items()
    for step in parse_readme(text)
    if step.line not in ELSEWHERE.get(page, ())
]
#: The ports of deployment.yaml, which the page mentions.
PORTS = (8000, 8003, 8080, 8081, 8082, 7070, 7071)
STEP_TIMEOUT_S = 300


@dataclass(frozen=True)
class Copy:
    """A reader's checkout, on ports of its own."""

    root: Path
    ports: dict[int, int]

    def type(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run the command as a shell would; both streams, in the order in which they were written."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "TSCTL_"))}
        environment.pop("MFLAGS", None)
        return subprocess.run(
            ["bash", "-c", substitute(command, self.ports)],
            cwd=self.root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=STEP_TIMEOUT_S,
        )


def built_files() -> list[Path]:
    """What is not trained and built once more: archives, and what recipes wrote."""
    folders = [CHECKOUT / "archives" / "store", *CHECKOUT.glob("archives/*/.built")]
    return [path.relative_to(CHECKOUT) for folder in folders for path in folder.rglob("*") if path.is_file()]


def link_or_copy(source: Path, target: Path) -> None:
    """The same content; a hard link where the disk allows it, because built files are never changed in place."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    root = tmp_path_factory.mktemp("readme") / "tsctl"
    for path in tracked_files():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(CHECKOUT / path, root / path)
    for path in built_files():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(CHECKOUT / path, root / path)
    (root / ".venv").symlink_to(sys.prefix)
    for name in ("requirements.lock", "requirements-data.lock", "pyproject.toml"):
        os.utime(root / name, (0, 0))  # .venv is that of these tests, so make takes it as it is
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    deployment = root / "deployment.yaml"
    deployment.write_text(substitute(deployment.read_text(), ports))
    made = Copy(root, ports)
    yield made
    made.type("make down")
    assert processes_of(root) == [], "processes are left behind"


def step_name(page_and_step: tuple[str, Step]) -> str:
    page, step = page_and_step
    return f"{page} line {step.line}: {step.path if isinstance(step, FileStep) else step.command.splitlines()[0]}"


@pytest.mark.parametrize("page_and_step", STEPS, ids=step_name)
def test_a_reader_can_type_it(copy: Copy, page_and_step: tuple[str, Step]) -> None:
    _, step = page_and_step
    if isinstance(step, FileStep):
        (copy.root / step.path).parent.mkdir(parents=True, exist_ok=True)
        (copy.root / step.path).write_text(step.content, encoding="utf-8")
        return
    ended = copy.type(step.command)
    assert ended.returncode == 0, ended.stdout
    if step.output is not None:
        assert matches(substitute(step.output, copy.ports), ended.stdout), ended.stdout
