"""The cases of tests/live/test_node_contract.py on nodes of Triton and BentoML."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.live.test_node_contract import *  # noqa: F403 - its cases and their fixture
from tests.live.test_node_contract import Stage, started_stage


@pytest.fixture(scope="module", name="started", params=["bentoml", "triton"])
def started_engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """In place of the nodes of TorchServe and uvicorn."""
    with started_stage(request.param, tmp_path_factory.mktemp(request.param)) as stage:
        yield stage
