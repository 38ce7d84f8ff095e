"""Releases a version by itself: `python scripts/rollout.py start digits 2.0` is `tsctl rollout start digits 2.0`."""

import _venv

_venv.enter()

from tsctl.cli.main import run

run("rollout")
