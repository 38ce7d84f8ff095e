"""docs/cookbook.md is typed in, step by step, in an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkout import CHECKOUT
from tests.support.ports import free_ports
from tests.support.readme import FileStep, Step, matches, parse_readme
from tests.support.sites import processes_of

STEPS = parse_readme((CHECKOUT / "docs" / "cookbook.md").read_text(encoding="utf-8"))
PORT = "9080"


class Reader:
    """A reader's folder and port."""

    def __init__(self, root: Path) -> None:
        self.root, self.port = root, str(free_ports(1)[0])

    def type(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run the command as a shell would; both streams, in the order in which they were written."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TSCTL_")}
        environment |= {"PATH": f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}", "SCALE_PORT": self.port}
        return subprocess.run(
            ["bash", "-c", command.replace(PORT, self.port)],
            cwd=self.root, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=200,
        )  # fmt: skip


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    made = Reader(tmp_path_factory.mktemp("cookbook") / "project")
    made.root.mkdir()
    yield made
    made.type("tsctl down")
    assert processes_of(made.root) == [], "processes are left behind"


def step_name(step: Step) -> str:
    return f"line {step.line}: {step.path if isinstance(step, FileStep) else step.command.splitlines()[0]}"


@pytest.mark.parametrize("step", STEPS, ids=step_name)
def test_a_reader_can_type_it(reader: Reader, step: Step) -> None:
    if isinstance(step, FileStep):
        (reader.root / step.path).parent.mkdir(parents=True, exist_ok=True)
        (reader.root / step.path).write_text(step.content, encoding="utf-8")
        return
    ended = reader.type(step.command)
    assert ended.returncode == 0, ended.stdout
    if step.output is not None:
        assert matches(step.output.replace(PORT, reader.port), ended.stdout), ended.stdout
