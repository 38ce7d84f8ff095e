"""Measures: `python scripts/bench.py first-request` is `tsctl bench first-request`."""

import _venv

_venv.enter()

from tsctl.cli.main import run

run("bench")
