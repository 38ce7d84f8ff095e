"""Reads TorchServe's logs: its tries to start workers again, and the last exception."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tsctl.host.files import lines_from

_NODE_LINE = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3}) "
    r"(?P<start>\[INFO ?\] main ModelServer - )?"
    r"(?P<recovery>\[WARN ?\] W-(?P<id>\d+)-(?P<name>\S+) WorkerThread - Auto recovery failed again)?"
)


@dataclass(frozen=True)
class Recovery:
    """TorchServe's tries to start one worker again, none of which succeeded."""

    failures: int
    ago_s: float  # since the last


def failed_recoveries(path: Path, model: str, version: str, now: float) -> dict[str, Recovery]:
    """The failed tries of this version's workers in the node's log, by the worker's id.

    Args:
        now: seconds since 1970. Only differences of the log's own times are read, because its time zone may be another.
    """
    times: dict[str, list[float]] = {}
    last = 0.0
    for line in lines_from(path, 0):
        if (match := _NODE_LINE.match(line)) is None:
            continue
        last = datetime.fromisoformat(match["time"].replace(",", ".")).timestamp()
        if match["start"]:  # of the node, which gives its workers' ids again
            times.clear()
        # TorchServe cuts the name of its thread
        if match["recovery"] and f"{model}_{version}".startswith(match["name"]):
            times.setdefault(match["id"], []).append(last)
    silent_s = now - path.stat().st_mtime if times else 0.0
    return {worker: Recovery(len(failed), last - failed[-1] + silent_s) for worker, failed in times.items()}


def last_exception(path: Path, offset: int, model: str, version: str) -> str:
    """The last line of this version's workers that names an exception; empty where there is none."""
    pattern = re.compile(
        rf"W-\d+-{re.escape(model)}_{re.escape(version)}-std(?:err|out) - ([\w.]+(?:Error|Exception)\b.*)"
    )
    matches = [match[1] for line in lines_from(path, offset) if (match := pattern.search(line))]
    return matches[-1] if matches else ""
