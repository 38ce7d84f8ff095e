"""From the gateway's counters to windows of evidence: nothing twice, nothing lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.rollout_journals import started
from tsctl.config.weights import TOTAL
from tsctl.errors import AnalysisError
from tsctl.gateway.counters import REQUEST_MS, REQUESTS, Sample, parse_page, shortest_over
from tsctl.rollout.decide.events import Entry
from tsctl.rollout.decide.fold import fold
from tsctl.rollout.decide.windows import OutcomeCounts, Thresholds, Window
from tsctl.rollout.evidence.counts import SLOW, EvidenceQuery, counter_values, windows_since
from tsctl.rollout.evidence.reader import LiveEvidence
from tsctl.rollout.evidence.several import cursor_of, is_of, together, windows_of_all
from tsctl.rollout.evidence.source import samples_of
from tsctl.rollout.evidence.totals import classes_of, durations_of, requests_of, slow_threshold_ms

QUERY = EvidenceQuery("m", "1.0", "2.0", slow_ms=21)
PAGE = f"""# TYPE {REQUESTS} counter
{REQUESTS}{{model="m",version="1.0",by="weight",weight="9500",status="200",class="7"}} 900
{REQUESTS}{{model="m",version="1.0",by="weight",weight="9500",status="503",class=""}} 4
{REQUESTS}{{model="m",version="2.0",by="weight",weight="500",status="200",class="7"}} 40
{REQUESTS}{{model="m",version="2.0",by="weight",weight="500",status="422",class=""}} 5
{REQUESTS}{{model="m",version="2.0",by="header",weight="500",status="500",class=""}} 99
{REQUESTS}{{model="m",version="2.0",by="path",weight="500",status="500",class=""}} 98
{REQUESTS}{{model="other",version="2.0",by="weight",weight="500",status="500",class=""}} 97
{REQUESTS}{{model="",version="",by="",weight="",status="401",class=""}} 96
# TYPE {REQUEST_MS} histogram
{REQUEST_MS}_bucket{{model="m",version="1.0",by="weight",weight="9500",le="20"}} 860
{REQUEST_MS}_bucket{{model="m",version="1.0",by="weight",weight="9500",le="25"}} 880
{REQUEST_MS}_bucket{{model="m",version="1.0",by="weight",weight="9500",le="+Inf"}} 904
{REQUEST_MS}_sum{{model="m",version="1.0",by="weight",weight="9500"}} 12345.6
{REQUEST_MS}_count{{model="m",version="1.0",by="weight",weight="9500"}} 904
{REQUEST_MS}_bucket{{model="m",version="2.0",by="weight",weight="500",le="20"}} 15
{REQUEST_MS}_count{{model="m",version="2.0",by="weight",weight="500"}} 45
"""


def test_only_what_was_sent_by_weight_is_evidence() -> None:
    windows, cursor = windows_since({}, counter_values(parse_page(PAGE), QUERY), QUERY, {})
    canary = OutcomeCounts(45, 0, 30, {"7": 40}, refused=5, timed=45)
    assert windows == [Window(500, OutcomeCounts(904, 0, 44, {"7": 900}, unanswered=4, timed=904), canary)]
    assert windows_since(cursor, counter_values(parse_page(PAGE), QUERY), QUERY, {}) == ([], {})
    strict = EvidenceQuery("m", "1.0", "2.0", count_4xx=True)
    [window] = windows_since({}, counter_values(parse_page(PAGE), strict), strict, {})[0]
    assert (window.canary.errors, window.canary.slow, window.stable.slow) == (5, 0, 0)


def test_requests_at_two_weights_are_two_windows() -> None:
    later = PAGE.replace('weight="500"', 'weight="5000"').replace('weight="9500"', 'weight="5000"')
    windows, _ = windows_since({}, counter_values([*parse_page(PAGE), *parse_page(later)], QUERY), QUERY, {})
    assert [(w.weight, w.stable.requests, w.canary.requests) for w in windows] == [(500, 904, 45), (5000, 904, 45)]


READINGS = st.lists(st.dictionaries(st.sampled_from(["1.0|9500", "2.0|500", "2.0|5000"]), st.integers(0, 50)))


@given(READINGS)
def test_however_often_it_is_read_nothing_counts_twice(steps: list[dict[str, int]]) -> None:
    now: dict[str, int] = {}
    cursor: Mapping[str, int] = {}
    seen = 0
    for more in steps:
        for place, count in more.items():
            key = f"r|{place}|500|"
            now[key] = now.get(key, 0) + count
        windows, changed = windows_since(cursor, now, QUERY, {})
        cursor = {**cursor, **changed}
        seen += sum(window.stable.requests + window.canary.requests for window in windows)
        assert all(window.canary.errors == window.canary.requests for window in windows)
        assert all(0 <= window.weight <= TOTAL for window in windows)
    assert seen == sum(now.values())


def test_a_counter_that_began_anew_counts_from_zero() -> None:
    [window], changed = windows_since({"r|2.0|500|200|": 100}, {"r|2.0|500|200|": 7}, QUERY, {})
    assert (window.canary.requests, changed) == (7, {"r|2.0|500|200|": 7})


def test_a_gateway_that_restarted_counts_all_anew() -> None:
    """A counter that has passed its old value since began anew all the same, and one that is missing is at 0."""
    cursor = {"r|1.0|9500|200|": 1000, "r|2.0|500|500|": 4, "r|2.0|500|200|": 50, "s|2.0|500|20": 3, "log|offset": 9}
    after = {"r|1.0|9500|200|": 900, "r|2.0|500|500|": 6}
    [window], changed = windows_since(cursor, after, QUERY, {})
    assert (window.stable.requests, window.canary.requests, window.canary.errors) == (900, 6, 6)
    cursor = {**cursor, **changed}
    assert cursor == {**after, "r|2.0|500|200|": 0, "s|2.0|500|20": 0, "log|offset": 9}
    assert windows_since(cursor, after, QUERY, {}) == ([], {})
    [window], _ = windows_since(cursor, {**after, "r|2.0|500|200|": 50}, QUERY, {})
    assert window.canary.requests == 50


@pytest.mark.parametrize("values", [{}, {"r|2.0|500|200|": 50}])
def test_counts_that_are_missing_for_a_while_count_once(values: dict[str, int]) -> None:
    cursor = {"r|1.0|9500|200|": 1000, "r|2.0|500|200|": 50}
    windows, changed = windows_since(cursor, values, QUERY, {})
    assert (windows, changed) == ([], {})
    [window], _ = windows_since({**cursor, **changed}, {**cursor, "r|1.0|9500|200|": 1001}, QUERY, {})
    assert (window.stable.requests, window.canary.requests) == (1, 0)


def test_names_may_hold_what_prometheus_escapes() -> None:
    line = REQUESTS + r'{model="m",version="1.0",by="weight",weight="9500",status="200",class="a\"|\\b"} 3'
    [sample] = parse_page(line)
    assert sample.labels["class"] == 'a"|\\b'
    [window], _ = windows_since({}, counter_values([sample], QUERY), QUERY, {})
    assert window.stable.classes == {'a"|\\b': 3}


@pytest.mark.parametrize("page", ["nonsense", "a b c d", "name{} x y z"])
def test_what_is_no_page_is_told(page: str) -> None:
    with pytest.raises(AnalysisError, match="no sample"):
        parse_page(page)


@pytest.mark.parametrize("weight", [{}, {"weight": ""}, {"weight": "-"}])
def test_what_the_gateway_refuses_before_it_chooses_a_version_is_none_of_its_requests(weight: dict[str, str]) -> None:
    """Prometheus leaves labels without a value out."""
    labels = {"model": "m", "version": "1.0", "by": "weight", "status": "413", **weight}
    samples = [Sample(REQUESTS, labels, 9), Sample(f"{REQUEST_MS}_count", labels, 9)]
    assert counter_values(samples, QUERY) == {}
    assert (requests_of(samples, "m"), durations_of(samples, "m", "1.0")) == (0, {})


def test_the_labels_of_an_answer_come_to_its_counts_and_an_older_gateway_has_none() -> None:
    labels = {"model": "m", "version": "2.0", "by": "weight", "weight": "500", "status": "504", "class": ""}
    nobody, client = ({"flags": "-", "deadline": by} for by in ("route", "client"))
    samples = [Sample(REQUESTS, {**labels, **more}, 9) for more in ({}, nobody, client)]
    values = counter_values(samples, QUERY)
    assert values == {"r|2.0|500|504|": 9, "r|2.0|500|504;;route|": 9, "r|2.0|500|504;;client|": 9}
    [window], _ = windows_since({}, values, QUERY, {})
    assert (window.canary.requests, window.canary.errors) == (18, 18)
    gone = counter_values([Sample(REQUESTS, {**labels, "status": "503", "flags": "UF,URX"}, 2)], QUERY)
    assert windows_since({}, gone, QUERY, {})[0][0].canary.unanswered == 2


def test_what_is_slow_lies_at_an_edge_of_the_histogram() -> None:
    answers = durations_of(parse_page(PAGE), "m", "1.0")
    assert answers == {inf: 904, 21.0: 860, 26.0: 880}
    assert slow_threshold_ms(answers, 0.95) == 21  # 44 of 904 took as long
    assert slow_threshold_ms(answers, 0.97) == 26
    assert slow_threshold_ms(answers, 0.999) is None
    assert [shortest_over(edge) for edge in (1, 8, 10, 25, 100, 150, 1000, 60_000)] == [
        2,
        9,
        11,
        26,
        110,
        160,
        1100,
        61_000,
    ]


@dataclass
class FakeSource:
    """A gateway that answered some requests of version 1.0: in less than 11 ms, in less than 21 ms, and all."""

    below_11: int = 0
    below_21: int = 0
    total: int = 0

    def samples(self, model: str) -> list[Sample]:
        labels = {"model": model, "version": "1.0", "by": "weight", "weight": "10000"}
        buckets = ((10, self.below_11), (20, self.below_21), ("+Inf", self.total))
        counts = [Sample(f"{REQUEST_MS}_bucket", {**labels, "le": str(edge)}, count) for edge, count in buckets]
        return [*counts, Sample(f"{REQUEST_MS}_count", labels, self.total)]

    def parts(self, model: str) -> dict[str, list[Sample]]:
        return {"": self.samples(model)}


def test_slow_answers_differ_from_those_since_the_last_call_or_since_a_counter_was_reset() -> None:
    source = FakeSource(0, 1000, 1000)
    evidence, state = LiveEvidence(source, source), fold([Entry(0, 0.0, started("m"))])
    assert evidence.thresholds(state)[0].slow_ms == 21
    assert evidence.thresholds(state)[0].slow_ms == 21  # no answer since, so that all of them count
    evidence.source = FakeSource(150, 1150, 1150)
    assert evidence.thresholds(state) == (Thresholds(11), {"s|1.0|10000|11": 1000})  # 150 quick ones since
    evidence.source = FakeSource(0, 120, 120)
    assert evidence.thresholds(state)[0].slow_ms == 21  # 120 since the counter began anew
    evidence.source = FakeSource(99, 99, 99)
    assert evidence.thresholds(state)[0].slow_ms is None


def test_classes_are_those_that_stable_predicted_the_most_frequent_first() -> None:
    samples = [
        Sample(REQUESTS, {"model": "m", "version": "1.0", "by": "weight", "weight": "9500", "class": name}, count)
        for name, count in (("a", 3), ("b", 5), ("", 9), ("a", 3))
    ]
    assert classes_of(samples, "m", "1.0") == ("a", "b")
    assert classes_of(samples, "m", "2.0") == ()
    assert requests_of(samples, "m") == 20


def test_a_prometheus_that_scrapes_two_gateways_or_one_twice_is_refused() -> None:
    """Their series differ only in labels that a cursor does not have."""
    told = [
        {"metric": {"__name__": REQUESTS, "model": "m", "job": job, "instance": place}, "value": [1.0, "7"]}
        for job, place in (("tsctl", "a:9902"), ("tsctl", "b:9902"), ("other", "a:9902"))
    ]
    assert [sample.value for sample in samples_of(told[:1] * 2, "http://p")] == [7, 7]
    for pair in (told[:2], told[::2]):
        with pytest.raises(AnalysisError, match=r"more than one gateway: .*a:9902"):
            samples_of(pair, "http://p")


def of_gateway(count: int, weight: int = 500) -> list[Sample]:
    """One gateway's page: as many requests of the canary, at its weight."""
    labels = {"model": "m", "version": "2.0", "by": "weight", "weight": str(weight), "status": "200", "class": "-"}
    return [Sample(REQUESTS, labels, count)]


def test_each_of_several_gateways_has_counts_of_its_own() -> None:
    query = EvidenceQuery("m", "1.0", "2.0")
    cursor = cursor_of({"a.1": of_gateway(10), "b.1": of_gateway(100)}, query)

    def read(parts: dict[str, list[Sample]]) -> dict[int, int]:
        windows, changed = windows_of_all(cursor, parts, query, {})
        cursor.update(changed)
        return {window.weight: window.canary.requests for window in windows}

    assert read({"a.1": of_gateway(13), "b.1": of_gateway(104)}) == {500: 7}
    # b was cut off, and still has the weight of before: its requests are no evidence of the new step
    assert read({"a.1": [*of_gateway(13), *of_gateway(2, 1000)], "b.1": of_gateway(106)}) == {500: 2, 1000: 2}
    # a does not report, and comes back: nothing is lost, and nothing counts twice
    assert read({"b.1": of_gateway(106)}) == {}
    assert read({"a.1": [*of_gateway(13), *of_gateway(5, 1000)], "b.1": of_gateway(106)}) == {1000: 3}
    # Envoy of b was killed; the new one's first page is where its counting begins
    assert read({"a.1": [*of_gateway(13), *of_gateway(5, 1000)], "b.2": of_gateway(40, 1000)}) == {}
    assert read({"a.1": [*of_gateway(13), *of_gateway(6, 1000)], "b.2": of_gateway(42, 1000)}) == {1000: 3}


def test_the_counts_of_several_gateways_together_are_sums() -> None:
    [both] = together({"a": of_gateway(10), "b": of_gateway(5)})
    assert (both.name, both.value) == (REQUESTS, 15)
    assert is_of(SLOW, "g|a.1||s|2.0|500|11")
    assert not is_of(SLOW, "r|2.0|500|200|x||s|")
