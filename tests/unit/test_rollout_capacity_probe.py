"""What is made of a node that is gone while its workers are timed."""

from __future__ import annotations

import pytest

from tsctl.nodes.node import Unreachable
from tsctl.rollout.run.capacity_probe import batch_seconds


def test_a_node_that_is_gone_is_away_and_its_canary_no_worse_for_it() -> None:
    with pytest.raises(Unreachable, match="does not answer any more"):
        batch_seconds("http://127.0.0.1:9/predictions/digits/2.0", {}, [b"{}"])
