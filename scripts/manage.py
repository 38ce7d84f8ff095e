"""Manages the models of a node: `python scripts/manage.py list` is `tsctl models list`."""

import _venv

_venv.enter()

from tsctl.cli.main import run

run("models")
