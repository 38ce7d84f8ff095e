"""What the gateway counts of requests: the only module that knows names, labels and buckets of its two metrics.

Rollouts judge by them. Invariant: a client cannot choose the value of a label freely, so that the series are bounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import floor, inf, log10

from handlers.contract import SENT_HEADER
from tsctl.errors import AnalysisError
from tsctl.gateway.access_log import FIELDS, FINISH_KEY, TOKEN_FIELDS, unless_inside
from tsctl.gateway.envoy.messages import NAMESPACE, Json, extension
from tsctl.gateway.headers import METERED_HEADER, WEIGHT_HEADER

#: Envoy writes its names as Prometheus has them behind this: `envoy_<scope>_<name>`.
_SCOPE = "tsctl"
REQUESTS, REQUEST_MS = f"envoy_{_SCOPE}_requests", f"envoy_{_SCOPE}_request_ms"
#: Requests of each client that reached a version, and those of them that failed: a series for each name that has a key.
CLIENT_REQUESTS, CLIENT_FAILURES = f"envoy_{_SCOPE}_client_requests", f"envoy_{_SCOPE}_client_failures"
#: Answers of language models by how they ended, and the tokens that clients sent and got.
ANSWERS, PROMPT_TOKENS, ANSWER_TOKENS = (
    f"envoy_{_SCOPE}_answers",
    f"envoy_{_SCOPE}_prompt_tokens",
    f"envoy_{_SCOPE}_answer_tokens",
)
_COUNTERS = (REQUESTS, CLIENT_REQUESTS, CLIENT_FAILURES, ANSWERS, PROMPT_TOKENS, ANSWER_TOKENS)
#: The series of all metrics. A histogram's `_sum` is not read.
SERIES = (*_COUNTERS, f"{REQUEST_MS}_count", f"{REQUEST_MS}_bucket")
#: Fields of the access log that are labels.
_REQUEST_MS_LABELS = ("model", "version", "by", "weight", "cache")
_REQUESTS_LABELS = (*_REQUEST_MS_LABELS, "status", "class", "flags", "deadline")
_CLIENT_REQUESTS_LABELS = ("model", "by", "client")
_ANSWERS_LABELS = ("model", "version", "by", "weight", "finish", "flags")
_TOKENS_LABELS = ("model", "version", "client")
_CLIENT_FAILURES_LABELS = (*_CLIENT_REQUESTS_LABELS, "version", "status", "flags", "deadline")

#: Milliseconds; from the time of a cached answer to the longest deadline that people set. None is more than half
#: as large again as the one before up to ten seconds, so that answers which take half as long again move to another.
BUCKETS_MS = (
    1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100, 120, 150, 200, 250, 300, 400, 500, 600, 800, 1000,
    1200, 1500, 2000, 2500, 3000, 4000, 5000, 6000, 8000, 10_000, 15_000, 20_000, 30_000, 60_000,
)  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """One series and its value now."""

    name: str  # one of SERIES, or another metric
    labels: Mapping[str, str]
    value: int


def stats_loggers() -> list[Json]:
    """Envoy's access loggers that count requests by their labels, and put waiting times into a histogram.

    The histogram has `AccessLogEntry.waited_ms`: what a client does while it sends or reads cannot make a version slow.
    A request that goes to a listener inside Envoy is counted there alone: on its way there it has neither a version nor
    the moment at which a node was asked.
    """
    has_version = {"header_filter": {"header": {"name": WEIGHT_HEADER, "present_match": True}}}
    is_failure = {"and_filter": {"filters": [has_version, _status("GE", 400)]}}
    is_sent = {"header_filter": {"header": {"name": SENT_HEADER, "present_match": True}}}
    was_sent = {"and_filter": {"filters": [is_sent, _status("GE", 1)]}}  # else there is no answer's time to be read
    is_metered = {"header_filter": {"header": {"name": METERED_HEADER, "present_match": True}}}
    ended = {"filter": NAMESPACE, "path": [{"key": FINISH_KEY}], "value": {"present_match": True}}
    is_counted = {"metadata_filter": {"matcher": ended, "match_if_key_not_found": False}}
    has_tokens = {"and_filter": {"filters": [is_metered, is_counted]}}
    return [
        unless_inside(_logger(counters=[_counter(REQUESTS, _REQUESTS_LABELS)])),
        {**_logger(histograms=[_waited(FIELDS["answer_ms"])]), "filter": was_sent},
        unless_inside({**_logger(histograms=[_waited(FIELDS["duration_ms"])]), "filter": _status("EQ", 0)}),
        {**_logger(counters=[_counter(CLIENT_REQUESTS, _CLIENT_REQUESTS_LABELS)]), "filter": has_version},
        {**_logger(counters=[_counter(CLIENT_FAILURES, _CLIENT_FAILURES_LABELS)]), "filter": is_failure},
        {**_logger(counters=_of_tokens()), "filter": has_tokens},
    ]


def _of_tokens() -> list[Json]:
    return [
        _counter(ANSWERS, _ANSWERS_LABELS),
        {**_stat(PROMPT_TOKENS, _TOKENS_LABELS), "value_format": TOKEN_FIELDS["tokens_in"]},
        {**_stat(ANSWER_TOKENS, _TOKENS_LABELS), "value_format": TOKEN_FIELDS["tokens_out"]},
    ]


def _status(operator: str, status: int) -> Json:
    value = {"default_value": status, "runtime_key": f"tsctl.counted.{status}"}
    return {"status_code_filter": {"comparison": {"op": operator, "value": value}}}


def _counter(name: str, labels: tuple[str, ...]) -> Json:
    return {**_stat(name, labels), "value_fixed": 1}


def _waited(value_format: str) -> Json:
    return {**_stat(REQUEST_MS, _REQUEST_MS_LABELS), "value_format": value_format}


def _logger(**stats: list[Json]) -> Json:
    kind = "envoy.extensions.access_loggers.stats.v3.Config"
    return extension("envoy.access_loggers.stats", kind, stats_scope={"prefix": _SCOPE}, **stats)


def histogram_settings() -> Json:
    """Envoy's `stats_config`: the buckets of all histograms."""
    return {"histogram_bucket_settings": [{"match": {"safe_regex": {"regex": ".*"}}, "buckets": list(BUCKETS_MS)}]}


def _stat(name: str, labels: tuple[str, ...]) -> Json:
    formats = {**FIELDS, **TOKEN_FIELDS}
    tags = [{"name": label, "value_format": formats[label]} for label in labels]
    return {"stat": {"name": name.removeprefix(f"envoy_{_SCOPE}_"), "tags": tags}}


def parse_page(text: str) -> list[Sample]:
    """The samples of a page in Prometheus' text format; raises AnalysisError where it is no such page."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        return [
            # the parser adds _total to the name of a counter, which Envoy does not
            Sample(family.name if family.name in _COUNTERS else sample.name, sample.labels, round(sample.value))
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]
    except ValueError as error:
        raise AnalysisError(f"the gateway's metrics page has a line that is no sample: {error}") from None


def bucket_edge(sample: Sample) -> float | None:
    """The upper edge in milliseconds of a sample that is a bucket; None for the last one and for other samples."""
    edge = float(sample.labels["le"]) if sample.name == f"{REQUEST_MS}_bucket" else inf
    return edge if edge < inf else None


def shortest_over(edge_ms: float) -> float:
    """The shortest duration, in whole milliseconds, that Envoy does not count in the bucket up to an edge.

    Its histogram keeps two digits of a duration and forgets the others, so that 209 ms are counted up to 200 as well.
    """
    return edge_ms + max(1.0, 10.0 ** (floor(log10(edge_ms)) - 1))
