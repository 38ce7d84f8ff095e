"""Checks that the packages of the server are there."""

from __future__ import annotations

from importlib.util import find_spec

from tsctl.errors import NodeError

SERVER = ("fastapi", "uvicorn")
_EXTRAS = {"grpc": "grpc"}  # the extra of tsctl that has a package; any other is in `uvicorn`


def require_installed(*names: str) -> None:
    """Check that these packages are there.

    Raises:
        NodeError: one is missing.
    """
    if missing := [name for name in names if find_spec(name) is None]:
        extras = ",".join(sorted({_EXTRAS.get(name, "uvicorn") for name in missing}))
        raise NodeError(f"not installed: {', '.join(missing)}", f"Run: pip install 'tsctl[{extras}]'")
