"""Facts that a figure depends on beside the code: cores, processor, memory, versions, date."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tsctl.nodes.torchserve.java import find_java

PACKAGES = ("tsctl", "torch", "torchserve", "numpy", "pydantic", "transformers", "tokenizers", "pillow", "safetensors",
            "fastapi", "uvicorn", "uvloop", "httptools", "torchvision")  # fmt: skip


def machine_facts() -> dict[str, Any]:
    """Facts of this machine, as JSON values; nothing that names the machine or its owner."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": len(os.sched_getaffinity(0)),
        "processor": processor(Path("/proc/cpuinfo").read_text()),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1),
        "load_before": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "java": find_java().major,
        "wrk": _wrk_version(),
        "packages": {name: number for name in PACKAGES if (number := _version(name))},
    }


def processor(cpuinfo: str) -> str:
    """The processor's name from /proc/cpuinfo; 'unknown' where it has none."""
    match = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return match[1].strip() if match else "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _wrk_version() -> str:
    try:
        text = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout  # noqa: S607 - as run_wrk
    except OSError:
        return ""
    words = text.split()
    return " ".join(words[1:2])
