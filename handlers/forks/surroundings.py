"""What a process gets from the one that it is forked from, and would otherwise get from who starts it.

A fork server makes a worker only for somebody whose surroundings are its own.
"""

from __future__ import annotations

import locale
import os
import resource
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: Variables that are read while Python starts or torch is imported; a worker's own would come too late.
_READ_AT_START = (
    "ATEN", "COVERAGE", "DNNL_", "GLIBC_", "GOMP_", "KMP_", "LD_", "MALLOC_", "MKL_", "NPY_", "NUMEXPR_", "OMP_",
    "OPENBLAS_", "PYTHON", "PYTORCH", "TORCH",
)  # fmt: skip
#: The server sets these for each worker.
_SET_LATER = ("PYTHONPATH", "PYTHONUNBUFFERED")
#: Signals that a shell or nohup has a process ignore, and all that it starts.
_INHERITED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def surroundings(python: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Those of this process, for a worker with this Python and this environment; as JSON."""
    namespaces = [str(entry.readlink()) for entry in sorted(Path("/proc/self/ns").iterdir())]
    return {
        "python": python,
        "text": "utf-8" if sys.flags.utf8_mode else locale.getencoding().lower(),
        "variables": {
            name: value
            for name, value in sorted(environment.items())
            if name.startswith(_READ_AT_START) and name not in _SET_LATER
        },
        "namespaces": namespaces,
        "group": Path("/proc/self/cgroup").read_text(),
        "user": [*os.getresuid(), *os.getresgid(), *sorted(os.getgroups())],
        "limits": {name: hard for name, (_, hard) in limits().items()},
        "cores": sorted(os.sched_getaffinity(0)),
    }


def limits() -> dict[str, tuple[int, int]]:
    """The kernel's limits of this process, soft and hard, by their names in `resource`."""
    names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    return {name: resource.getrlimit(getattr(resource, name)) for name in names}


def ignored_signals() -> list[int]:
    """Those of _INHERITED_SIGNALS that this process ignores, and so what it starts."""
    return [int(number) for number in _INHERITED_SIGNALS if signal.getsignal(number) is signal.SIG_IGN]


def umask() -> int:
    """That of this process; `os.umask` cannot ask without setting it, for all threads."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("\nUmask:")[2].split()[0], 8)
