"""Compares two checkouts: runs a benchmark in each in turns, and prints the ratio of every figure, round by round.

    python -m benchmarks.compare --old ../before '.venv/bin/tsctl bench overhead --rounds 1 --json' \\
        --new . '.venv/bin/python -m benchmarks overhead --rounds 1 --json' --rounds 5 --only ServingHandler

A ratio above 1 says that the new checkout is better: more requests/s, or fewer milliseconds. Exit code 1 where the
median ratio of a figure is below --least.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from tsctl.cli.output import print_table
from tsctl.config.project import PROJECT_VARIABLE
from tsctl.host.progress import Progress


def measure(folder: str, command: str) -> dict[str, float]:
    """Figures by name, from the JSON that the command prints; requests/s of each target, and milliseconds negated."""
    environment = {**os.environ, PROJECT_VARIABLE: os.path.realpath(folder)}
    ended = subprocess.run(
        shlex.split(command), cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    document = json.loads(ended.stdout)
    if isinstance(document, list):  # `tsctl bench overhead --json` before benchmarks were a package
        return {row["way"]: row["requests_s"] for row in document}
    workloads = document["workloads"]
    has_several = len(workloads) > 1  # two of them may have a target of the same name
    return {
        f"{workload['key']}: {name}" if has_several else name: value
        for workload in workloads
        for name, value in figures(workload).items()
    }


def figures(workload: Mapping[str, Any]) -> dict[str, float]:
    """The same of one workload; its targets were called ways before."""
    targets = workload["targets"] if "targets" in workload else workload["ways"]
    speeds = {name: statistics.median(turn["requests_s"] for turn in turns) for name, turns in targets.items()}
    milliseconds = {f["name"]: -f["value"] for f in workload["figures"] if f["unit"] == "ms" and f["value"] is not None}
    return {**speeds, **milliseconds}


def ratio(old: float, new: float) -> float:
    """How many times as good the new value is."""
    return new / old if new > 0 else old / new


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for side in ("old", "new"):
        parser.add_argument(f"--{side}", nargs=2, metavar=("CHECKOUT", "COMMAND"), required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="pattern of the figures")
    parser.add_argument("--least", type=float, default=0.97, help="ratio that every figure must reach")
    options = parser.parse_args()
    progress, ratios = Progress(), dict[str, list[float]]()
    sides = {"old": options.old, "new": options.new}
    for number in range(options.rounds):
        measured = {}
        for side in sorted(sides, reverse=number % 2 == 0):  # each side goes first in every other round
            with progress.step(f"round {number + 1} of {options.rounds}: {side}"):
                measured[side] = measure(*sides[side])
        for name in measured["old"].keys() & measured["new"].keys():
            if re.search(options.only, name):
                ratios.setdefault(name, []).append(ratio(measured["old"][name], measured["new"][name]))
    columns = ("figure", "median", "least", "most", "reached")
    rows = [(n, statistics.median(r), min(r), max(r), statistics.median(r) >= options.least) for n, r in ratios.items()]
    print_table(columns, [(n, *(f"{r:.3f}" for r in three), "yes" if ok else "no") for n, *three, ok in sorted(rows)])
    return 0 if rows and all(row[-1] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
