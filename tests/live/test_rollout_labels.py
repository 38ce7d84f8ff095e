"""Labels that come while a rollout runs: a canary that they find wrong more often is rolled back by them alone."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tests.support.gateways import Front
from tests.support.releases import LARGE, PACE, asking, releasing, state_of, weights
from tsctl.config.weights import TOTAL
from tsctl.rollout.decide.events import Outcome

#: The answer to LARGE is 4, and 2.0 says 5; the sample of golden answers has another input.
RIGHT, WRONG = "y4", "y5"
VERSIONS = {"1.0": {**PACE, "has_classes": True}, "2.0": {**PACE, "has_classes": True, "wrong_at": 4.0}}
ROLLED_BACK = 10


def label_what_is_recorded(front: Front) -> int:
    """Add the right label of every recorded request; returns how many there are."""
    asked = json.loads(front.site.run("records", "query", "SELECT request_id FROM records", "--json").out)
    lines = [f"{row['request_id']},{RIGHT}\n" for row in asked]
    (front.site.root / "labels.csv").write_text("request_id,label\n" + "".join(lines))
    front.site.run("labels", "add", "labels.csv")
    return len(lines)


def test_a_canary_that_labels_find_wrong_is_rolled_back(tmp_path: Path) -> None:
    archive = {"records": {"share": 1.0}}
    signals = ["errors", "labels"]
    with (
        releasing(tmp_path, VERSIONS, archive=archive, signals=signals, min_labels=20, hold_s=2) as front,
        asking(front, LARGE) as load,
    ):
        with front.site.start("rollout", "start", "tiny", "2.0") as process:
            while process.poll() is None:
                if not label_what_is_recorded(front):
                    time.sleep(0.5)
        assert process.returncode == ROLLED_BACK
        state = state_of(front)
        assert (state.outcome, state.signal) == (Outcome.ROLLED_BACK, "labels")
        assert weights(front) == {"1.0": TOTAL}
        report = json.loads(front.site.run("labels", "report", "tiny", "--json").out)
        assert {each["version"]: each["accuracy"] for each in report} == {"1.0": 1.0, "2.0": 0.0}
        explained = front.site.run("rollout", "explain", "tiny").out
        assert "label" in explained
        assert load.failed == []
