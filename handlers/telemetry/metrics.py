"""Metrics of a worker: the only module that knows prometheus_client, and the description of every metric.

Values lie in memory-mapped files of this process, in a folder that all workers of a node share, and
`tsctl metrics serve` adds the files up. Invariant: nothing that goes wrong here fails a request or keeps a worker from
serving. That needs the disk's blocks beforehand: prometheus_client makes its files with holes, and a write into a hole
of a full disk ends the process with SIGBUS, which no `except` sees.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import struct
import threading
import time
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from handlers import errors
from handlers.contract import (
    ANSWER_ENDS,
    ANSWER_QUEUE_SECONDS,
    ANSWER_TOKENS,
    ANSWERED_ITEMS,
    BATCH_ITEMS,
    BATCH_SECONDS,
    BISECTIONS,
    CACHE_ITEMS,
    CACHE_STATES,
    COMPUTED_ITEMS,
    FINISHED_ANSWERS,
    FIRST_TOKEN_SECONDS,
    INPUT_POSITIONS,
    KV_CACHE_USAGE,
    MEMORY_SPLITS,
    METRICS_FOLDER_VARIABLE,
    OPEN_ANSWERS,
    OUTPUT_TOKEN_SECONDS,
    PROMPT_TOKENS,
    RECORD_OUTCOMES,
    RECORDED_ITEMS,
    SHARED_CACHE_EXCHANGES,
    SPAN_OUTCOMES,
    SPANS,
    STAGE_SECONDS,
    WARMUP_SECONDS,
    WORKER_STARTS,
)

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge, Histogram

logger = logging.getLogger(__name__)

STAGES = ("decode", "preprocess", "inference", "postprocess", "encode")
#: Of an item: "ok", the kind of its error, or "other" for an error that the author of a model defined.
OUTCOMES = (
    "ok",
    *(cls.kind for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.RequestError)),
    "other",
)
_KNOWN_OUTCOMES = frozenset(OUTCOMES)
CACHE_RESULTS = (*CACHE_STATES, "wrong")
CACHE_TIERS = ("batch", "worker", "shared", "none")
SHARED_CACHE_OUTCOMES = ("ok", "slow", "down", "not-written")
POSITIONS = ("content", "padding")
RUNS = ("cold", "warm")

#: Upper bounds: a linear layer's stage takes less than the first, a request that times out takes about the last.
STAGE_BUCKETS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
BATCH_BUCKETS = tuple(float(2**power) for power in range(11))
#: A first token takes from a few ms on a GPU to an archive's `first_token_s`; the next ones from 1 ms to a second.
FIRST_TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0)
OUTPUT_TOKEN_BUCKETS = (
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0,
)  # fmt: skip


@dataclass(frozen=True)
class Description:
    """One metric as docs/metrics.md and the exported page describe it."""

    kind: str  # counter, gauge or histogram
    help: str
    #: Besides model and version, which every metric has: names, each with its closed set of values; None: open.
    labels: Mapping[str, tuple[str, ...] | None] = field(default_factory=dict)
    buckets: tuple[float, ...] = ()
    is_text: bool = False  # only workers that generate text have it
    merged: str = "mostrecent"  # of a gauge: how prometheus_client makes one value of those of several workers


METRICS = {
    STAGE_SECONDS: Description("histogram", "Time of one batch in one stage.", {"stage": STAGES}, STAGE_BUCKETS),
    BATCH_SECONDS: Description("histogram", "Time of one batch in all stages.", buckets=STAGE_BUCKETS),
    BATCH_ITEMS: Description("histogram", "Items that came in one batch.", buckets=BATCH_BUCKETS),
    ANSWERED_ITEMS: Description("counter", "Items by what they were answered.", {"outcome": OUTCOMES}),
    CACHE_ITEMS: Description("counter", "Items by what the cache did.", {"result": CACHE_RESULTS, "tier": CACHE_TIERS}),
    SHARED_CACHE_EXCHANGES: Description("counter", "Exchanges with Redis.", {"outcome": SHARED_CACHE_OUTCOMES}),
    COMPUTED_ITEMS: Description("counter", "Items that the model computed."),
    INPUT_POSITIONS: Description("counter", "Tokens or rows of the model's inputs.", {"kind": POSITIONS}),
    MEMORY_SPLITS: Description("counter", "Batches halved because they did not fit into memory."),
    BISECTIONS: Description("counter", "Failing batches halved to find the item that fails."),
    WORKER_STARTS: Description("counter", "Workers that became ready to serve."),
    RECORDED_ITEMS: Description("counter", "Items that were to be recorded.", {"outcome": RECORD_OUTCOMES}),
    SPANS: Description("counter", "Spans of traced requests.", {"outcome": SPAN_OUTCOMES}),
    WARMUP_SECONDS: Description("gauge", "One batch of the last warm-up.", {"batch": None, "run": RUNS}),
    FIRST_TOKEN_SECONDS: Description(
        "histogram", "Time from a request to the first token of an answer.", {}, FIRST_TOKEN_BUCKETS, is_text=True
    ),
    OUTPUT_TOKEN_SECONDS: Description(
        "histogram", "Time per token of an answer after its first.", {}, OUTPUT_TOKEN_BUCKETS, is_text=True
    ),
    ANSWER_QUEUE_SECONDS: Description(
        "histogram", "Time from a request until the backend had it.", {}, FIRST_TOKEN_BUCKETS, is_text=True
    ),
    PROMPT_TOKENS: Description("counter", "Tokens of prompts that were begun.", is_text=True),
    ANSWER_TOKENS: Description("counter", "Tokens of answers that have ended.", is_text=True),
    FINISHED_ANSWERS: Description("counter", "Answers by how they ended.", {"finish": ANSWER_ENDS}, is_text=True),
    OPEN_ANSWERS: Description("gauge", "Answers in the making.", is_text=True, merged="livesum"),
    KV_CACHE_USAGE: Description(
        "gauge", "Share of the memory for keys and values in use.", is_text=True, merged="livemax"
    ),
}

#: Seconds that observations may wait in memory; what a killed worker loses of them.
FLUSH_S = 0.25
#: Bytes that are set aside for each of a worker's files, more than the longest names of models and versions need.
RESERVED = 1 << 16
#: What prometheus_client calls the files of the metrics above, before `_<pid>.db`.
FILES = ("counter", "gauge_mostrecent", "histogram")
#: Beside them, of workers that generate text: values of workers that live, which go with their worker.
LIVE_FILES = ("gauge_livesum", "gauge_livemax")


class Telemetry:
    """Metrics of one worker that are off: every call does nothing."""

    is_on = False

    def batch(self, items: int, outcomes: Mapping[str, int], seconds: Mapping[str, float]) -> None:
        """One batch was answered; the caller does not change what it gives.

        Args:
            items: that came in it.
            outcomes: items by "ok" or the kind of their RequestError; a kind that errors.py lacks is "other".
            seconds: that it was in each of STAGES.
        """

    def cache(self, result: str, tier: str, items: int) -> None:
        """One of CACHE_RESULTS from one of CACHE_TIERS, for so many items."""

    def shared_cache(self, outcome: str) -> None:
        """One exchange with the shared cache ended as one of SHARED_CACHE_OUTCOMES."""

    def recorded(self, outcome: str, items: int) -> None:
        """So many sampled items ended as one of RECORD_OUTCOMES."""

    def spans(self, outcome: str, spans: int) -> None:
        """So many spans of traced requests ended as one of SPAN_OUTCOMES."""

    def memory_split(self) -> None:
        """A batch was halved because it did not fit into memory."""

    def bisection(self) -> None:
        """A failing batch was halved to find the culprit."""

    def computed(self, items: int) -> None:
        """The model computed so many items: misses after deduplication, without rows that only pad."""

    def padding(self, content: int, padded: int) -> None:
        """Positions (tokens, rows) of the model's input that held content, and those that were padding."""

    def warmup(self, batch: int, cold_s: float, warm_s: float) -> None:
        """Seconds that the first run of a batch of this size took, and the best one."""

    # ---- text ----------------------------------------------------------------------------------------------------

    def answered(self, outcome: str) -> None:
        """A request was answered: "ok", or the kind of its RequestError."""

    def prompt(self, tokens: int) -> None:
        """A request with so many tokens in its prompts was begun."""

    def first_token(self, queued_s: float, first_s: float) -> None:
        """Seconds from a request until the backend had an answer to it, and until its first token came."""

    def answer_ended(self, finish: str, tokens: int, token_s: float) -> None:
        """An answer of so many tokens ended, as one of ANSWER_ENDS.

        Args:
            token_s: seconds per token after the first; 0 where there is none after it.
        """

    def watch_text(self, occupancy: Callable[[], tuple[int, float]]) -> None:
        """Ask for the answers in the making, and the share of the memory in use, at each flush."""

    def flush(self) -> None:
        """Everything observed until now can be exported; happens by itself every FLUSH_S, and when a process exits."""


def telemetry(model: str, version: str, wanted: bool, folder: str | None, is_text: bool = False) -> Telemetry:
    """The metrics of this worker; off, with one warning, where they are wanted and cannot be written.

    Args:
        wanted: whether the archive asks for metrics.
        folder: of the metric files; None or empty: nobody collects. PROMETHEUS_MULTIPROC_DIR is set to it.
        is_text: whether the worker generates text, and has the metrics of that.
    """
    if not wanted or not folder:
        return Telemetry()
    os.environ[METRICS_FOLDER_VARIABLE] = folder
    try:
        return _Recorder(model, version, Path(folder), is_text)
    # what a missing package, a full or foreign disk, and a damaged file of an earlier process of this pid raise
    except (ImportError, OSError, RuntimeError, ValueError, struct.error) as error:
        logger.warning("metrics of %s %s are off: %s: %s", model, version, type(error).__name__, error)
        return Telemetry()


#: A metric's name, then the values of its own labels in the order of METRICS.
_Key = tuple[str, ...]
#: The arguments of `Telemetry.batch`.
_Batch = tuple[int, Mapping[str, int], Mapping[str, float]]
_Amount = TypeVar("_Amount")


class _Recorder(Telemetry):
    """Writes into the files of this process; one object in a process, because each keeps its own sums.

    The request path's observations are held in memory, and a thread writes them. One of prometheus_client takes 2 to 5
    microseconds, and a batch makes ten: that was 5 % of a small model's worker. The thread needs the interpreter as the
    request path does, so it adds batches up by columns and not one by one.
    """

    is_on = True

    def __init__(self, model: str, version: str, folder: Path, is_text: bool) -> None:
        from prometheus_client import values

        if values.ValueClass is values.MutexValue:
            raise RuntimeError(f"prometheus_client was imported before {METRICS_FOLDER_VARIABLE} was set")
        _reserve(folder, (*FILES, *LIVE_FILES) if is_text else FILES)
        _forget_the_dead(folder)
        self._of_version = (model, version)
        self._warmup = _metric(WARMUP_SECONDS)
        self._children = {
            key: child
            for name, described in METRICS.items()
            if name != WARMUP_SECONDS and described.is_text <= is_text
            for key, child in self._children_of(name)
        }
        self._occupancy: Callable[[], tuple[int, float]] | None = None
        _add(self._children[(WORKER_STARTS,)], [1])  # at once: a worker that dies soon is the one to be seen
        self._held: deque[tuple[_Key, float]] = deque()
        self._hold = self._held.append  # atomic, so that neither the request path nor the thread waits for a lock
        self._batches: deque[_Batch] = deque()
        self._hold_batch = self._batches.append
        self._computed: deque[int] = deque()
        self._hold_computed = self._computed.append
        self._flushing = threading.Lock()
        self._has_failed = False
        threading.Thread(target=self._keep_flushing, name="telemetry", daemon=True).start()
        atexit.register(self.flush)

    def batch(self, items: int, outcomes: Mapping[str, int], seconds: Mapping[str, float]) -> None:
        self._hold_batch((items, outcomes, seconds))

    def cache(self, result: str, tier: str, items: int) -> None:
        self._hold(((CACHE_ITEMS, result, tier), items))

    def shared_cache(self, outcome: str) -> None:
        self._hold(((SHARED_CACHE_EXCHANGES, outcome), 1))

    def recorded(self, outcome: str, items: int) -> None:
        self._hold(((RECORDED_ITEMS, outcome), items))

    def spans(self, outcome: str, spans: int) -> None:
        self._hold(((SPANS, outcome), spans))

    def memory_split(self) -> None:
        self._hold(((MEMORY_SPLITS,), 1))

    def bisection(self) -> None:
        self._hold(((BISECTIONS,), 1))

    def computed(self, items: int) -> None:
        self._hold_computed(items)

    def padding(self, content: int, padded: int) -> None:
        self._hold(((INPUT_POSITIONS, "content"), content))
        self._hold(((INPUT_POSITIONS, "padding"), padded))

    def warmup(self, batch: int, cold_s: float, warm_s: float) -> None:
        try:
            for run, seconds in zip(RUNS, (cold_s, warm_s), strict=True):
                self._warmup.labels(*self._of_version, str(batch), run).set(seconds)
        except Exception as error:  # noqa: BLE001 - logged, and no request may fail of it
            self._log_failure((WARMUP_SECONDS,), error)

    def answered(self, outcome: str) -> None:
        self._hold(((ANSWERED_ITEMS, outcome if outcome in _KNOWN_OUTCOMES else "other"), 1))

    def prompt(self, tokens: int) -> None:
        self._hold(((PROMPT_TOKENS,), tokens))

    def first_token(self, queued_s: float, first_s: float) -> None:
        self._hold(((ANSWER_QUEUE_SECONDS,), queued_s))
        self._hold(((FIRST_TOKEN_SECONDS,), first_s))

    def answer_ended(self, finish: str, tokens: int, token_s: float) -> None:
        self._hold(((FINISHED_ANSWERS, finish), 1))
        self._hold(((ANSWER_TOKENS,), tokens))
        if token_s:
            self._hold(((OUTPUT_TOKEN_SECONDS,), token_s))

    def watch_text(self, occupancy: Callable[[], tuple[int, float]]) -> None:
        self._occupancy = occupancy

    def flush(self) -> None:
        with self._flushing:
            self._set_occupancy()
            held = self._drained()
            for key, amounts in held.items():
                try:
                    _add(self._children[key], amounts)
                except Exception as error:  # noqa: BLE001 - logged, and no request may fail of it
                    self._log_failure(key, error)

    def _set_occupancy(self) -> None:
        if self._occupancy is None:
            return
        try:
            for name, value in zip((OPEN_ANSWERS, KV_CACHE_USAGE), self._occupancy(), strict=True):
                self._children[(name,)].set(value)
        except Exception as error:  # noqa: BLE001 - logged, and no request may fail of it
            self._log_failure((OPEN_ANSWERS,), error)

    def _drained(self) -> dict[_Key, list[float]]:
        """Everything held, by metric; batches are taken apart here, and not while a client waits."""
        amounts: dict[_Key, list[float]] = defaultdict(list)
        while self._held:
            key, amount = self._held.popleft()
            amounts[key].append(amount)
        if computed := _taken(self._computed):
            amounts[(COMPUTED_ITEMS,)] += computed
        if batches := _taken(self._batches):
            _take_apart(batches, amounts)
        return amounts

    def _keep_flushing(self) -> None:
        while True:
            time.sleep(FLUSH_S)
            self.flush()

    def _log_failure(self, key: _Key, error: Exception) -> None:
        """The first error of a worker's life is logged; each costs only the observations that it came from."""
        if not self._has_failed:
            self._has_failed = True
            logger.warning("metrics are incomplete: %s failed", " ".join(key), exc_info=error)

    def _children_of(self, name: str) -> list[tuple[_Key, Any]]:
        """The metric's children by their labels, all of them: a counter that is not there yet has no rate."""
        metric = _metric(name)
        labels = itertools.product(*(values or () for values in METRICS[name].labels.values()))
        return [((name, *values), metric.labels(*self._of_version, *values)) for values in labels]


def _taken(held: deque[_Amount]) -> list[_Amount]:
    """What is in it now, which is no longer in it; others may append meanwhile."""
    return [held.popleft() for _ in range(len(held))]


def _take_apart(batches: Sequence[_Batch], amounts: dict[_Key, list[float]]) -> None:
    """Add the observations of these batches to the amounts."""
    items, all_outcomes, all_seconds = zip(*batches, strict=True)
    amounts[(BATCH_ITEMS,)] += items
    amounts[(BATCH_SECONDS,)] += [sum(seconds.values()) for seconds in all_seconds]
    for outcomes in all_outcomes:
        for outcome, count in outcomes.items():
            amounts[ANSWERED_ITEMS, outcome if outcome in _KNOWN_OUTCOMES else "other"].append(count)
    rows: dict[tuple[str, ...], list[Iterable[float]]] = defaultdict(list)  # most batches are in the same stages
    for seconds in all_seconds:
        rows[tuple(seconds)].append(seconds.values())
    for stages, of_batches in rows.items():
        for stage, of_stage in zip(stages, zip(*of_batches, strict=True), strict=True):
            amounts[STAGE_SECONDS, stage] += of_stage


def _metric(name: str) -> Any:
    """The metric, in none of prometheus_client's registries: what is exported are the files, and a registry would
    refuse a second handler in one process."""
    from prometheus_client import Counter, Gauge, Histogram

    described = METRICS[name]
    labels = ("model", "version", *described.labels)
    if described.kind == "counter":
        return Counter(name, described.help, labels, registry=None)
    if described.kind == "gauge":
        mode: Any = described.merged
        return Gauge(name, described.help, labels, registry=None, multiprocess_mode=mode)
    return Histogram(name, described.help, labels, registry=None, buckets=described.buckets)


def _add(child: Counter | Histogram | Gauge, amounts: Sequence[float]) -> None:
    """Add the amounts to a counter, or observe each with a histogram, in one write for each value that changes.

    prometheus_client's `observe` takes one amount only; `_sum` and `_buckets` are what it writes, one bucket each.
    """
    metric: Any = child
    if not hasattr(metric, "_buckets"):
        metric.inc(sum(amounts))
        return
    metric._sum.inc(sum(amounts))
    ordered, below = sorted(amounts), 0
    for bucket, bound in zip(metric._buckets, metric._upper_bounds, strict=True):
        through = bisect_right(ordered, bound)
        if through > below:
            bucket.inc(through - below)
        below = through


def _reserve(folder: Path, names: Sequence[str]) -> None:
    """Have the disk set aside the blocks of this process's files, beyond what an earlier process of this pid wrote.

    Raises:
        OSError: there is no such folder, it may not be written, or its disk is full.
    """
    for name in names:
        descriptor = os.open(folder / f"{name}_{os.getpid()}.db", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, os.fstat(descriptor).st_size + RESERVED)
        finally:
            os.close(descriptor)


def _forget_the_dead(folder: Path) -> None:
    """Remove the live values of workers that have ended, whoever ended them."""
    for name in LIVE_FILES:
        for path in folder.glob(f"{name}_*.db"):
            pid = path.stem.rpartition("_")[2]
            if pid.isdigit() and not _is_alive(int(pid)):
                path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
