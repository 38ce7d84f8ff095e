"""Every class of a prediction is a series of the gateway's counters: one that names very many is bounded there."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import requests

from handlers.contract import OTHER_CLASS
from tests.support.nodes import KEY, MODEL, Asked, Reply, ScriptedNode, fronted
from tests.support.sites import until
from tsctl.config.deployment import RouteSpec
from tsctl.gateway.counters import REQUESTS, parse_page
from tsctl.gateway.envoy.render import worker_filters

#: What no label should be; handlers of tsctl do not send it.
BAD = ("a b", "x" * 65, "grün", 'a"b', "a,b")
MOST = 20


def test_a_handler_that_names_very_many_classes_makes_a_bounded_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_filters, "MOST_CLASSES", MOST)
    named = [*BAD, *(f"class-{number}" for number in range(MOST + 9))]
    names = iter(named)

    def answer(asked: Asked) -> Reply:
        return Reply() if asked.is_check else Reply(headers={"x-prediction-class": next(names)})

    node = ScriptedNode("a", answer)
    with fronted(tmp_path, [node], RouteSpec()) as front, requests.Session() as session:
        until(lambda: front.is_in_rotation(node), 20, "the first check")
        # on one connection, and so on one of Envoy's threads, each of which counts for itself
        asked: dict[str, Any] = {
            "url": f"{front.base}/predictions/{MODEL}",
            "headers": {"x-api-key": KEY},
            "timeout": 10,
        }
        told = [session.post(**asked, data=b"{}").headers["x-prediction-class"] for _ in named]
        assert told == [OTHER_CLASS] * len(BAD) + named[len(BAD) : -9] + [OTHER_CLASS] * 9
        until(lambda: counted(front.gateway.admin.page("tsctl")) == Counter(told), 10, "the classes in the counters")


def counted(page: str) -> Counter[str]:
    """Requests by class."""
    counts: Counter[str] = Counter()
    for sample in parse_page(page):
        if sample.name == REQUESTS:
            counts[sample.labels["class"]] += sample.value
    return counts
