"""Closed-loop load by wrk: every connection sends its next request when it has its answer.

Requests go in the order of the bodies, over and over, from one thread: every target gets the same sequence.
"""

from __future__ import annotations

import re
import resource
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tsctl.errors import NodeError, TsctlError

#: Seconds that an answer may take before wrk counts it as failed.
ANSWER_S = 10
_SCRIPT = """\
local function decoded(hex)
  return (hex:gsub('..', function(pair) return string.char(tonumber(pair, 16)) end))
end
local bodies, requests, turn = {}, {}, 0
for line in io.lines('BODIES') do bodies[#bodies + 1] = decoded(line) end
wrk.method = 'POST'
wrk.body = bodies[1]
"""
# wrk asks the script for every request only where there is such a function
_CYCLE = """\
function init(arguments)
  for i, body in ipairs(bodies) do requests[i] = wrk.format(nil, nil, nil, body) end
end
function request()
  turn = turn % #requests + 1
  return requests[turn]
end
"""


@dataclass(frozen=True)
class Report:
    """The figures of one run of wrk."""

    requests: int
    requests_s: float
    p50_ms: float
    p99_ms: float
    failed: int  # answers that are no 2xx or 3xx, and socket errors


def require_wrk() -> str:
    """The path of wrk.

    Raises:
        TsctlError: it is not installed.
    """
    wrk = shutil.which("wrk")
    if wrk is None:
        raise TsctlError("wrk is not installed", "Install it, for example with 'apt-get install wrk'.")
    return wrk


def write_script(folder: Path, headers: Mapping[str, str], bodies: Sequence[bytes]) -> Path:
    """Writes a script for wrk to the folder; only its owner may read it, as the headers may hold a token."""
    bodies_file = folder / "bodies.hex"
    bodies_file.write_text("".join(f"{body.hex()}\n" for body in bodies))
    lines = [f"wrk.headers[{name!r}] = {value!r}" for name, value in headers.items()]
    script = folder / "post.lua"
    script.touch(mode=0o600)
    cycle = _CYCLE if len(bodies) > 1 else ""
    script.write_text(_SCRIPT.replace("BODIES", str(bodies_file)) + "\n".join(lines) + "\n" + cycle)
    return script


def run_wrk(url: str, script: Path, connections: int, seconds: int) -> tuple[Report, float]:
    """Runs wrk; its report, and the seconds of processor time that wrk itself took.

    Raises:
        TsctlError: wrk is missing.
        NodeError: it failed.
    """
    timeout = f"{ANSWER_S}s"
    command = [
        require_wrk(), "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", timeout,
        "-s", str(script), url,
    ]  # fmt: skip
    before = _children_cpu_s()
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 60)
    if ended.returncode != 0:
        raise NodeError(f"wrk failed: {(ended.stderr or ended.stdout).strip()[-300:]}")
    return parse_wrk(ended.stdout), _children_cpu_s() - before


def parse_wrk(text: str) -> Report:
    """The figures in the output of wrk.

    Raises:
        ValueError: a figure is missing.
    """
    failed = sum(int(number) for number in re.findall(r"Non-2xx or 3xx responses: (\d+)", text))
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    failed += sum(map(int, errors.groups())) if errors else 0
    return Report(
        requests=int(_figure(text, r"(\d+) requests in ")),
        requests_s=float(_figure(text, r"Requests/sec:\s+([\d.]+)")),
        p50_ms=_milliseconds(_figure(text, r"^ +50% +(\S+)")),
        p99_ms=_milliseconds(_figure(text, r"^ +99% +(\S+)")),
        failed=failed,
    )


def _children_cpu_s() -> float:
    """Processor time of the child processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _figure(text: str, pattern: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    if match is None:
        raise ValueError(f"wrk did not print {pattern}")
    return match[1]


def _milliseconds(duration: str) -> float:
    match = re.fullmatch(r"([\d.]+)(us|ms|s|m)", duration)
    if match is None:
        raise ValueError(f"{duration!r} is no duration of wrk")
    return float(match[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}[match[2]]
