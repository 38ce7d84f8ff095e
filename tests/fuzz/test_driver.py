"""`make fuzz` fails where an input fails, keeps it, and takes no silence for success."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DRIVER = Path(__file__).resolve().parent / "run.py"
PROGRESS = "print('#2 INITED cov: 5 ft: 5 corp: 1/1b'); print('#1234 DONE   cov: 8 ft: 9 corp: 2/2b')"
CRASH = "import sys; prefix = next(a for a in sys.argv if a.startswith('-artifact_prefix='))[17:]\n" + (
    "open(prefix + 'crash-1', 'wb').write(b'I'); print('ERROR: libFuzzer: it broke'); sys.exit(77)"
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the driver, one target, and an engine that each test writes."""
    (tmp_path / "tests" / "fuzz").mkdir(parents=True)
    shutil.copy(DRIVER, tmp_path / "tests" / "fuzz")
    (tmp_path / "tests" / "fuzz" / "fuzz_toy.py").touch()
    (tmp_path / "atheris.py").touch()
    return tmp_path


def drive(checkout: Path, engine: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (checkout / "tests" / "fuzz" / "engine.py").write_text(engine)
    command = [sys.executable, "-m", "tests.fuzz.run", "--seconds", "1", *arguments]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=60)


def test_a_run_that_finds_nothing_succeeds_with_a_line_per_target(checkout: Path) -> None:
    done = drive(checkout, PROGRESS)
    assert done.returncode == 0, done.stderr
    head, line = done.stdout.splitlines()
    assert head.split() == ["target", "seconds", "runs", "branches", "new", "failing"]
    assert line.split()[2:] == ["1,234", "8", "3", "0"]
    assert len(line) == len(head)


def test_a_failing_input_is_kept_and_fails_the_run_each_time(checkout: Path) -> None:
    for _ in range(2):
        done = drive(checkout, f"{PROGRESS}\n{CRASH}")
        assert done.returncode == 1
        assert done.stdout.split()[-1] == "1"
        assert "it broke" in done.stderr
        assert "tests/fuzz/found/toy/" in done.stderr
    assert (checkout / ".tsctl" / "fuzz" / "toy" / "failing" / "crash-1").read_bytes() == b"I"


@pytest.mark.parametrize("engine", ["", "raise SystemExit(1)", f"{PROGRESS}; raise SystemExit(3)"])
def test_a_target_that_ran_nothing_or_broke_fails_the_run(checkout: Path, engine: str) -> None:
    assert drive(checkout, engine).returncode == 1


def test_an_unknown_target_is_refused(checkout: Path) -> None:
    refused = drive(checkout, PROGRESS, "other")
    assert refused.returncode == 2
    assert "no such target: other; there are toy" in refused.stderr
