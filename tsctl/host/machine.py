"""Facts of this machine that a measured figure depends on; nothing that names the machine or its owner."""

from __future__ import annotations

import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from handlers.contract import usable_cores


def machine_facts() -> dict[str, Any]:
    """Date, cores, processor, memory, load, system and Python, as JSON values."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": usable_cores(),
        "processor": processor(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1),
        "load_before": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }


def processor(cpuinfo: str) -> str:
    """The processor's name from /proc/cpuinfo; 'unknown' where it has none."""
    match = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return match[1].strip() if match else "unknown"
