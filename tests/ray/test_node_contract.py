"""The cases of tests/live/test_node_contract.py on a Ray cluster of one machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.live.test_node_contract import *  # noqa: F403 - its cases and their fixture
from tests.live.test_node_contract import Stage, started_stage


@pytest.fixture(scope="module", name="started")
def started_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """In place of the nodes of other engines."""
    with started_stage("ray", tmp_path_factory.mktemp("ray")) as stage:
        yield stage
