"""What counts as a right answer to a golden sample."""

from __future__ import annotations

import pytest

from handlers.contract import Tolerance
from tsctl.nodes.observed import Reply
from tsctl.rollout.run.golden import difference_of


@pytest.mark.parametrize(("status", "body", "why"), [
    (200, b'{"label": 7}', ""),
    (200, b'{"label": 8}', "expected 7"),
    (200, b"seven", "no JSON: seven"),
    (200, b"\xff\xfe", "no JSON"),
    (503, b"no worker", "503: no worker"),
])  # fmt: skip
def test_an_answer_is_right_or_says_why_not(status: int, body: bytes, why: str) -> None:
    found = difference_of(Reply(status, body, {}), {"label": 7}, Tolerance(1e-4, 0.0))
    assert bool(found) == bool(why)
    assert why in found
