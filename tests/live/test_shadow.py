"""The shadow stage behind a real gateway: a canary that answers 2 % otherwise is found, and an identical one passes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from benchmarks.harness.client import Connection, Load, asking
from tests.support.gateways import Front
from tests.support.releases import CLIENTS, ROUTE, releasing, state_of, weights
from tsctl.config.weights import TOTAL
from tsctl.gateway.state import traffic_in_force
from tsctl.rollout.decide.shadow import PairCounts

REJECTED, PROMOTED = 13, 0
#: One of so many inputs is answered otherwise by 3.0.
INPUTS = 50
STAGE = {"percent": 100, "min_pairs": 500, "max_disagreement": 0.005}


@contextmanager
def different_inputs(front: Front) -> Iterator[Load]:
    """Requests without a pause while the block runs, of INPUTS different inputs in turn."""
    load, stop, numbers = Load(), threading.Event(), count()

    def ask(_: int) -> None:
        connection = Connection(front.address(ROUTE))
        while not stop.is_set():
            body = json.dumps({"x": float(next(numbers) % INPUTS)}).encode()
            load.answers.append(connection.ask(body))
        connection.close()

    with asking(ask, CLIENTS, stop):
        yield load


def test_a_canary_is_compared_before_its_first_request(tmp_path: Path) -> None:
    versions = {"1.0": {}, "2.0": {}, "3.0": {"wrong_at": 2.0 * 7}}
    with releasing(tmp_path, versions, archive={"records": {"share": 1.0}}, shadow=STAGE) as front:
        site = front.site
        with different_inputs(front) as load:
            site.run("rollout", "start", "tiny", "3.0", status=REJECTED)
            failed = state_of(front)
            report = json.loads(site.run("shadow", "report", "tiny", "--json").out)
            planned = json.loads(site.run("rollout", "plan", "tiny", "2.0", "--json").out)["shadow"]
            assert traffic_in_force(front.gateway)["tiny"].shadow is None
            assert weights(front) == {"1.0": TOTAL}
            site.run("rollout", "start", "tiny", "2.0", status=PROMOTED)
            passed = state_of(front)
        assert load.failed == []
        assert {answer.version for answer in load.answers} == {"1.0", "2.0"}, "3.0 answered no client"

        assert (failed.signal, failed.had_weight, failed.step) == ("disagreement", False, -1)
        rate = failed.pairs.differing / failed.pairs.pairs
        assert 0.005 < rate < 0.06
        assert failed.pairs.repeats_differing == dict.fromkeys(failed.pairs.repeats_differing, 0)
        assert all(process.pairs > 0 for process in failed.pairs.floors.values()), "stable answered again in both ways"
        explained = site.run("rollout", "explain", "tiny", failed.id).out
        assert "The shadow stage failed before the first step: it disagrees with stable more than 0.50%" in explained

        assert (report["stable"], report["shadow"], report["verdict"]) == ("1.0", "3.0", "too much")
        assert report["paired_share"] >= 0.99, report["unpaired"]
        assert len(report["examples"]) == min(30, report["differing"])
        assert planned["pairs_per_s"] > 0

        assert passed.is_compared
        assert passed.pairs.differing == 0
        assert passed.pairs.pairs >= 1497
        paired = PairCounts(passed.pairs.pairs, unpaired=passed.unpaired).paired_share
        assert paired is not None
        assert paired >= 0.99, passed.unpaired
        assert passed.step == 2, "every step came after the stage"
