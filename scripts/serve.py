"""Starts, stops and shows nodes: `python scripts/serve.py up` is `tsctl up`, and likewise down, status and node."""

import _venv

_venv.enter()

from tsctl.cli.main import run

run()
