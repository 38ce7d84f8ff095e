"""Builds and checks archives: `python scripts/archive.py build digits` is `tsctl archive build digits`."""

import _venv

_venv.enter()

from tsctl.cli.main import run

run("archive")
