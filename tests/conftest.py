"""Rules for every test: what lies in tests/live is marked live, and nothing may be skipped in CI."""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from coverage import Coverage

from handlers.contract import WORKER_ENVIRONMENT
from handlers.log_lines import NamedLines

# as in workers, and before torch is imported: its threads sleep while they wait, or tests side by side slow each other
for _name, _value in WORKER_ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

LIVE = Path(__file__).parent / "live"
IS_CI = bool(os.environ.get("CI"))
#: Where coverage tells the processes that a test starts what to measure.
MEASURES = "COVERAGE_PROCESS_CONFIG"

#: Modules that one process runs, because they share what takes long to start: a node, or the model of sentences.
SHARING = {
    "tests/live/test_metrics.py": "tests/live/test_up.py",
    "tests/live/test_cached_answers.py": "tests/live/test_by_hand.py",
    "tests/live/test_recovery.py": "tests/live/test_by_hand.py",
    "tests/live/test_retire.py": "tests/live/test_by_hand.py",
    "tests/live/test_workers.py": "tests/live/test_by_hand.py",
    "tests/handlers/test_handler_fuzzing.py": "tests/handlers/test_embedding_handler.py",
    "tests/handlers/test_oip.py": "tests/handlers/test_embedding_handler.py",
    "tests/handlers/test_second_adapter.py": "tests/handlers/test_embedding_handler.py",
}

#: Modules that take longest, the longest first, and before all others: a process that began one of them last would
#: work alone at the end. `--durations=0` shows what they take.
LONGEST = (
    "tests/live/test_by_hand.py",  # and those that share its node
    "tests/live/test_node_contract.py",
    "tests/live/test_gateway.py",
    "tests/live/test_node.py",
    "tests/live/test_readme.py",
    "tests/handlers/test_archive_verify.py",
    "tests/live/test_images.py",
    "tests/live/test_many_gateways.py",
    "tests/live/test_examples.py",
    "tests/live/test_apply.py",
    "tests/handlers/test_archive_sandbox.py",
    "tests/live/test_up.py",
    "tests/live/test_monitoring.py",
    "tests/live/test_migrating.py",
    "tests/live/test_records.py",
    "tests/handlers/test_accelerate.py",
    "tests/live/test_ray.py",
    "tests/unit/test_archive_build.py",
)

# how long an example takes says how busy the machine is, and nothing about the code
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """No garbage is collected meanwhile: modules and items stay, and walking them takes a third of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if LIVE in item.path.parents:
            item.add_marker(pytest.mark.live)
    place = {module: number for number, module in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(_process_of(item.nodeid), len(place)))  # stable: modules stay in one piece


def _process_of(nodeid: str) -> str:
    """The module whose process runs the test."""
    module = nodeid.partition("::")[0]
    return SHARING.get(module, module)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Gives each module to one process, and modules that share something to the same."""
    from xdist.scheduler import LoadFileScheduling

    class Sharing(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
        """Takes modules that share something for one."""

        def _split_scope(self, nodeid: str) -> str:
            return _process_of(nodeid)

    return Sharing(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Live tests are not measured, nor are the commands and workers that they start, which would take twice as long.

    The report says what the other tests run, as `make coverage` does.
    """
    if not item.get_closest_marker("live"):
        return (yield)
    measured = os.environ.pop(MEASURES, None)
    tracers = (sys.gettrace(), threading.gettrace()) if Coverage.current() is not None else None
    if tracers is not None:  # coverage's own `stop` and `start` would patch `os` anew for each test
        sys.settrace(None)
        threading.settrace(None)  # as it was at first
    try:
        return (yield)
    finally:
        if tracers is not None:
            sys.settrace(tracers[0])
            threading.settrace(tracers[1])
        if measured is not None:
            os.environ[MEASURES] = measured


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if IS_CI:
        _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if IS_CI:
        _refuse_skip(report)
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """A skip becomes a failure that names its reason; an expected failure stays one."""
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where everything must run: {reason}"


@pytest.fixture(autouse=True)
def _lines_without_names() -> Iterator[None]:
    """What a worker in this process did to the standard streams (handlers/log_lines.py) ends with the test."""
    yield
    for stream in ("stdout", "stderr"):
        while isinstance(named := getattr(sys, stream), NamedLines):
            setattr(sys, stream, named.inner)
            for handler in logging.getLogger().handlers:
                if isinstance(handler, logging.StreamHandler) and handler.stream is named:
                    handler.setStream(named.inner)
