"""One API server for all modules."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.kubernetes_server import ApiServerProcess, api_server


@pytest.fixture(scope="session")
def kubernetes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServerProcess]:
    """The server, with the definitions of the Gateway API and nothing else."""
    with api_server(tmp_path_factory.mktemp("kubernetes") / "server") as server:
        yield server
