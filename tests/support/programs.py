"""Programs that tests run and that do not come with the packages."""

from __future__ import annotations

import shutil

import pytest


def program(name: str, package: str = "") -> str:
    """The path of a program; the test is skipped where it is missing, which fails in CI.

    Args:
        package: of Debian; the program's own name if left out.
    """
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed (apt-get install {package or name})")
    return path
