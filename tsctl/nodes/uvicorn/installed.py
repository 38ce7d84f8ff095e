"""Checks that the packages of the server are there."""

from __future__ import annotations

from importlib.util import find_spec

from tsctl.errors import NodeError

SERVER = ("fastapi", "uvicorn")


def require_installed(*names: str) -> None:
    """Check that these packages are there.

    Raises:
        NodeError: one is missing.
    """
    if missing := [name for name in names if find_spec(name) is None]:
        extras = "uvicorn,grpc" if "grpc" in missing else "uvicorn"
        raise NodeError(f"not installed: {', '.join(missing)}", f"Run: pip install 'tsctl[{extras}]'")
