"""Measures points: nodes stay started, and a version is registered again only where its archive changes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tsctl.archive.comparator import comparator_of
from tsctl.archive.store import StoredArchive
from tsctl.compare.answers import agreement
from tsctl.compare.contender import Endpoint, endpoint_of
from tsctl.compare.load.figures import LoadFigures, load_figures
from tsctl.compare.load.order import Order
from tsctl.compare.load.run import run_load
from tsctl.compare.load.schedule import at_least_one, send_times
from tsctl.compare.nodes import free_spec
from tsctl.compare.recorded import RecordedRequest
from tsctl.compare.turn import ANSWER_S, MOST_CLIENTS, ask
from tsctl.config.nodes import TRITON
from tsctl.config.project import Project
from tsctl.errors import NodeError, TsctlError
from tsctl.host.progress import Note, quiet_progress
from tsctl.host.usage import OthersMeter, memory_of, process_tree
from tsctl.nodes.engines import open_node
from tsctl.nodes.node import Node
from tsctl.nodes.observed import Reply
from tsctl.tune.objective import Load, Score, next_share, score
from tsctl.tune.space import Settings
from tsctl.tune.variants import Variants

#: Seconds within which a version must be ready, and the same as a multiple of the present settings' time: the larger
#: one counts. No trial takes minutes.
READY_S, READY_TIMES = 60.0, 3.0
#: Requests whose answers are compared with those of the present settings, at most.
COMPARED = 64
#: Seconds of load before the first one that counts, and seconds for late answers after each.
WARM_S, DRAIN_S = 0.3, 3.0
#: Seconds for the kernel to report a process that was stopped.
STOPPED_S = 10.0


class Invalid(Exception):
    """Settings with which the archive must not serve, or cannot; the message says why."""


@dataclass(frozen=True)
class Served:
    """What is registered now."""

    settings: Settings
    archive: StoredArchive
    node: Node
    endpoint: Endpoint


class Measurer:
    """Serves one point at a time, and loads it. A context: at its end every node is stopped.

    Args:
        own: a project of its own, whose store has the variants.
        slo_ms: limit of the p99.
        connections: of the closed loop; it may be set once the present settings were measured.
    """

    def __init__(
        self, own: Project, variants: Variants, requests: Sequence[RecordedRequest], slo_ms: float, connections: int
    ) -> None:
        self.connections = connections
        self._own, self._variants, self._requests, self._slo_ms = own, variants, requests, slo_ms
        self._comparator = comparator_of(variants.facts).of_values()
        self._nodes: dict[str, Node] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._served: Served | None = None
        self._expected: list[Reply] | None = None
        self._present_s = 0.0  # that the present settings took to get ready; 0: not known yet
        self._quiet = quiet_progress()

    def __enter__(self) -> Measurer:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop every node; a signal that interrupts a command comes here as Ctrl-C does.

        Raises:
            NodeError: processes are left.
        """
        failures: list[TsctlError] = []
        for engine, node in self._nodes.items():
            try:
                node.stop(self._quiet)
                if engine in self._processes:
                    self._processes[engine].wait(STOPPED_S)
            except TsctlError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def cannot(self, settings: Settings) -> str:
        """Why the engine of these settings cannot serve the archive on this machine; empty where it can."""
        return self._node(settings.engine).cannot(self._variants.variant(settings), self._variants.facts.names[1])

    def measure(self, settings: Settings, seconds: float, note: Note) -> Score:
        """Serve the point, and measure it with loads of so many seconds.

        Raises:
            Invalid: a worker refuses it, its answers differ from those of the present settings, or it answers nothing.
            NodeError: the node or the load failed for another reason.
        """
        served = self._serve(settings, note)
        pid = served.node.pid
        pids = [pid] if pid is not None else []
        others = OthersMeter(pids)
        messages = [served.endpoint.message(request) for request in self._requests]
        note("closed loop")
        self._closed(served.endpoint, messages, WARM_S)
        closed = self._closed(served.endpoint, messages, seconds)
        capacity = closed.answered_s
        if capacity <= 0:
            raise Invalid(f"answered nothing in {seconds:g} s: {closed.statuses}")
        loads: list[Load] = []
        while (share := next_share(loads, self._slo_ms)) is not None:
            note(f"{capacity:,.0f} requests/s; open loop at {share:.0%}")
            loads.append(self._open(served.endpoint, messages, share * capacity, seconds))
        found = score(seconds, capacity, loads, self._slo_ms)
        return replace(found, memory_bytes=memory_of(process_tree(pids)).bytes, others=round(others.share(), 4))

    # ---- what is served ----------------------------------------------------------------------------------------------

    def _serve(self, settings: Settings, note: Note) -> Served:
        model, version = self._variants.facts.names
        archive = self._variants.variant(settings)
        now = self._served
        if now is not None and now.settings == settings:
            return now
        if now is not None and now.archive == archive and now.settings.engine == settings.engine:
            note(f"scaling to {settings.workers} workers")
            self._served = None
            now.node.scale(model, version, settings.workers, note)
            self._served = replace(now, settings=settings)
            return self._served
        self.clear()
        node = self._started(settings.engine, note)
        note("registering")
        begin = time.monotonic()
        limit_s = max(READY_S, READY_TIMES * self._present_s) if self._present_s else None
        try:
            node.register(archive, version, settings.workers, note, limit_s)
        except NodeError as error:
            node.unregister(model, version)
            raise Invalid(_reason(error, node.name)) from None
        self._present_s = self._present_s or time.monotonic() - begin
        endpoint = endpoint_of(node.url(model, version) + node.path(model, version), node.access())
        endpoint = replace(endpoint, unwrap=node.unwrap, is_enveloped=node.protocol == TRITON)
        served = self._served = Served(settings, archive, node, endpoint)
        try:
            self._compare(endpoint)
        except Invalid:
            self.clear()
            raise
        return served

    def clear(self) -> None:
        """Nothing is registered afterwards."""
        now, self._served = self._served, None
        if now is not None:
            now.node.unregister(*self._variants.facts.names)

    def _compare(self, endpoint: Endpoint) -> None:
        """Compare the answers with those of the first point that is served, which is the present one."""
        compared = self._requests[:COMPARED]
        replies = [ask(endpoint, request) for request in compared]
        if self._expected is None:
            if wrong := next((reply for reply in replies if reply.status != 200), None):
                text = wrong.body[:300].decode("utf-8", "replace")
                raise NodeError(f"the model answers a request with {wrong.status}: {text}", "Leave such requests out.")
            self._expected = replies
            return
        names = [request.name for request in compared]
        if difference := agreement(names, self._expected, replies, replies, replies, self._comparator).first:
            raise Invalid(f"answers otherwise: {difference}")

    def _node(self, engine: str) -> Node:
        return self._nodes.get(engine) or open_node(self._own, f"tune-{engine}", free_spec(engine))

    def _started(self, engine: str, note: Note) -> Node:
        if engine not in self._nodes:
            note(f"starting {engine}")
            node = self._node(engine)
            self._nodes[engine] = node  # is stopped also where its start was interrupted
            self._processes[engine] = node.start(self._own, self._quiet)
        return self._nodes[engine]

    # ---- loads -------------------------------------------------------------------------------------------------------

    def _closed(self, endpoint: Endpoint, messages: Sequence[bytes], seconds: float) -> LoadFigures:
        order = self._order(endpoint, self.connections, seconds)
        return load_figures(run_load(order, messages), self.connections)

    def _open(self, endpoint: Endpoint, messages: Sequence[bytes], rate: float, seconds: float) -> Load:
        moments = at_least_one(send_times(rate, seconds))
        noted = run_load(self._order(endpoint, MOST_CLIENTS, seconds), messages, moments)
        figures = load_figures(noted, MOST_CLIENTS, rate)
        # not `answered_s`, which leaves out what was answered in time, but after the last request was sent
        return Load(rate, rate * (1 - figures.failed / max(1, figures.requests)), figures.p99_ms)

    def _order(self, endpoint: Endpoint, connections: int, seconds: float) -> Order:
        late_s = max(DRAIN_S, 2 * self._slo_ms / 1000)
        return Order(endpoint.host, endpoint.port, connections, seconds, endpoint.is_enveloped, min(late_s, ANSWER_S))


#: Measures a point with loads of so many seconds; raises Invalid where it must not serve.
Measure = Callable[[Settings, float, Note], Score]


def _reason(error: TsctlError, node: str) -> str:
    """The refusal, without the names of this search's own node."""
    return error.summary.rpartition(" must not serve: ")[2].replace(f" on node {node}", "")
