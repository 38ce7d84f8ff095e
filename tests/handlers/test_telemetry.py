"""What workers write, read back as it is exported: real files, worker processes of their own, one of them killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from handlers.contract import ANSWER_ENDS
from handlers.telemetry.metrics import FILES, FLUSH_S, METRICS, OUTCOMES, RESERVED, STAGES, Description
from tsctl.monitoring.worker_files import WorkerFiles, registry_of

CHECKOUT = Path(__file__).resolve().parents[2]
#: The longest model and version that an archive may have.
LONGEST = ("m" * 64, "1" * 32)

WORKER = """
import os, sys
from handlers.telemetry.metrics import STAGES, telemetry

recorder = telemetry(*sys.argv[1:3], True, os.environ["PROMETHEUS_MULTIPROC_DIR"])
assert recorder.is_on

def one_batch():
    recorder.batch(4, {"ok": 3, "does-not-fit-schema": 1}, dict.fromkeys(STAGES, 0.002))
    recorder.cache("hit", "worker", 1)
    recorder.cache("miss", "none", 2)
    recorder.computed(2)
"""

#: Says a line for each batch, and goes on only when it is recorder to.
ASKED = WORKER + "for _ in sys.stdin:\n    one_batch()\n    print('done', flush=True)\n"
#: Says the number of batches so far, without end.
ENDLESS = WORKER + "for number in range(1, 10**9):\n    one_batch()\n    print(number, flush=True)\n"

EVERYTHING = (
    WORKER
    + """
one_batch()
recorder.batch(5, {"of-an-author": 2, "also-unknown": 3}, {})
recorder.shared_cache("slow")
recorder.memory_split()
recorder.bisection()
recorder.bisection()
recorder.padding(90, 10)
for batch in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024):
    recorder.warmup(batch, 0.5, 0.25)
"""
)
EVERYTHING_OF_TEXT = (
    WORKER.replace("True, os", "True, is_text=True, folder=os")
    + """
recorder.watch_text(lambda: (3, 0.25))
recorder.prompt(12)
recorder.first_token(0.02, 0.15)
recorder.answer_ended("stop", 34, 0.004)
recorder.answer_ended("cancelled", 1, 0.0)
recorder.answered("ok")
recorder.answered("of-an-author")
"""
)

#: A handler behind TorchServe's service, one batch for each thing that can happen to one.
SERVING = """
import sys
from pathlib import Path

from tests.support.workers import Item, Worker, write_archive_folder

import torch

from handlers.base import ServingHandler
from handlers.messages import Request
from handlers.pipeline.pipeline import Pipeline
from handlers.schema import Schema


class Doubler(ServingHandler):
    class Request(Schema):
        number: float

    drift = 0.0
    fits = 99

    def load(self):
        pass

    def preprocess(self, items):
        return torch.tensor([item.number for item in items])

    def inference(self, inputs):
        if len(inputs) > self.fits:
            raise torch.OutOfMemoryError("out of memory")
        if 13 in inputs:
            raise RuntimeError("unlucky")
        return inputs * 2 + self.drift

    def postprocess(self, outputs):
        return outputs.tolist()


def ask(*numbers, **headers):
    for reply in worker.ask(*(Item(b'{"number": %d}' % number, headers=headers) for number in numbers)):
        print(reply.status)


folder = Path(sys.argv[3])
serving = {"cache": {"max_mb": 1.0, "ttl_s": 60.0, "check": 1.0}, "metrics": True}
write_archive_folder(folder, {"two.json": b'{"number": 2}'}, {"two.json": 4.0}, serving=serving)
(folder / "MAR-INF" / "DIGESTS.json").write_bytes(b"{}")
handler = Doubler()
worker = Worker(handler, folder)
ask(1, 1, 3)  # one is the other's answer
ask(1, 13, 5, 6)  # one is known, and one makes the model fail
handler.drift = 1.0
ask(1)  # is known, and wrong by now
ask(3, **{"Cache-Control": "no-store"})
handler.fits = 2
ask(21, 22, 23, 24)  # do not fit together
worker.ask(Item(b"{}"))
filled = Pipeline(handler, request_bytes=1024, budget_s=30.0, pads=True)
filled.open(None, handler.telemetry)
handler.fits = 99
filled.answer([Request(b'{"number": 1}')] * 3)
"""

BROKEN = (
    WORKER
    + """
recorder.batch(1, {}, {"nonsense": 1.0})
recorder.flush()
recorder.computed(-1)
recorder.batch(1, {"ok": None}, {})
recorder.flush()
recorder.warmup(1, "x", None)
recorder.computed(5)
"""
)


@contextmanager
def worker(
    folder: Path, script: str, model: str = "toy", version: str = "1.0", *more: str
) -> Iterator[subprocess.Popen[str]]:
    """A process that reports into the folder; killed at the end of the block."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("COV")}  # or it logs as well
    environment = {**inherited, "PROMETHEUS_MULTIPROC_DIR": str(folder), "PYTHONPATH": str(CHECKOUT)}
    with subprocess.Popen(
        [sys.executable, "-c", script, model, version, *more],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def finished(folder: Path, script: str, model: str = "toy", version: str = "1.0", *more: str) -> str:
    """What a worker logged that ran to its end."""
    with worker(folder, script, model, version, *more) as process:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    return err


def batches(process: subprocess.Popen[str], count: int) -> None:
    """Have an asked worker do batches, and wait for them."""
    assert process.stdin is not None
    assert process.stdout is not None
    for _ in range(count):
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"


class Page:
    """The metrics of a folder, as they are exported now."""

    def __init__(self, folder: Path, model: str = "toy", version: str = "1.0") -> None:
        self.warnings: list[str] = []
        self.registry = registry_of(WorkerFiles(folder, self.warnings.append))
        self.labels = {"model": model, "version": version}

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, {**self.labels, **labels})


def test_the_sums_of_two_workers_are_right_while_and_after_one_is_killed(tmp_path: Path) -> None:
    page = Page(tmp_path)
    with worker(tmp_path, ASKED) as asked, worker(tmp_path, ENDLESS) as endless:
        assert endless.stdout is not None
        batches(asked, 3)
        said, written = 0, 0
        begin = time.monotonic()
        while time.monotonic() < begin + 10 * FLUSH_S:
            said = int(endless.stdout.readline())
            if time.monotonic() < begin + 4 * FLUSH_S:
                written = said  # long ago when the loop ends
        endless.kill()
        said = max([said, *map(int, endless.stdout)])
        endless.wait()
        batches(asked, 2)
        asked.communicate(timeout=60)
        for name, labels in (
            ("tsctl_worker_batch_items_count", {}),
            ("tsctl_worker_stage_seconds_count", {"stage": "decode"}),
            ("tsctl_worker_answered_items_total", {"outcome": "does-not-fit-schema"}),
            ("tsctl_worker_cache_items_total", {"result": "hit", "tier": "worker"}),
        ):
            counted = page.value(name, **labels)
            assert counted is not None
            assert 100 < written + 5 <= counted <= said + 1 + 5, name
    before = page.value("tsctl_worker_batch_items_count")
    finished(tmp_path, WORKER + "one_batch()")
    assert page.value("tsctl_worker_batch_items_count") == (before or 0) + 1
    assert page.warnings == []


def test_what_an_idle_worker_counts_is_exported_soon(tmp_path: Path) -> None:
    page = Page(tmp_path)
    with worker(tmp_path, ASKED) as asked:
        batches(asked, 3)
        end = time.monotonic() + 20
        while page.value("tsctl_worker_stage_seconds_count", stage="encode") != 3:
            assert time.monotonic() < end, "nothing is written while the worker waits"
            time.sleep(0.02)
        assert page.value("tsctl_worker_stage_seconds_sum", stage="encode") == pytest.approx(0.006)


def test_every_metric_and_label_is_written(tmp_path: Path) -> None:
    assert finished(tmp_path, EVERYTHING) == ""
    page = Page(tmp_path)
    assert page.value("tsctl_worker_stage_seconds_bucket", stage="decode", le="0.001") == 0
    assert page.value("tsctl_worker_stage_seconds_bucket", stage="decode", le="0.0025") == 1
    assert page.value("tsctl_worker_batch_items_bucket", le="4.0") == 1
    assert page.value("tsctl_worker_batch_items_bucket", le="2.0") == 0
    assert page.value("tsctl_worker_answered_items_total", outcome="ok") == 3
    assert page.value("tsctl_worker_answered_items_total", outcome="other") == 5
    assert page.value("tsctl_worker_answered_items_total", outcome="of-an-author") is None
    assert page.value("tsctl_worker_cache_items_total", result="miss", tier="none") == 2
    assert page.value("tsctl_worker_cache_items_total", result="wrong", tier="shared") == 0
    assert page.value("tsctl_worker_shared_cache_exchanges_total", outcome="slow") == 1
    assert page.value("tsctl_worker_computed_items_total") == 2
    assert page.value("tsctl_worker_input_positions_total", kind="content") == 90
    assert page.value("tsctl_worker_input_positions_total", kind="padding") == 10
    assert page.value("tsctl_worker_memory_splits_total") == 1
    assert page.value("tsctl_worker_bisections_total") == 2
    assert page.value("tsctl_worker_warmup_seconds", batch="1024", run="cold") == 0.5
    assert page.value("tsctl_worker_warmup_seconds", batch="1024", run="warm") == 0.25
    assert described_on(page) == described(lambda metric: not metric.is_text)
    assert {"ok", "internal", "does-not-fit-schema", "deadline-passed", "other"} <= set(OUTCOMES)


def described_on(page: Page) -> dict[tuple[str, str], str]:
    return {(metric.name, metric.type): metric.documentation for metric in page.registry.collect()}


def described(is_meant: Callable[[Description], bool]) -> dict[tuple[str, str], str]:
    chosen = {name: metric for name, metric in METRICS.items() if is_meant(metric)}
    return {(name.removesuffix("_total"), metric.kind): metric.help for name, metric in chosen.items()}


def test_a_worker_that_generates_text_has_its_own_metrics_besides(tmp_path: Path) -> None:
    assert finished(tmp_path, EVERYTHING_OF_TEXT) == ""
    page = Page(tmp_path)
    assert page.value("tsctl_worker_first_token_seconds_bucket", le="0.1") == 0
    assert page.value("tsctl_worker_first_token_seconds_bucket", le="0.2") == 1
    assert page.value("tsctl_worker_answer_queue_seconds_sum") == 0.02
    assert page.value("tsctl_worker_output_token_seconds_count") == 1, "one token has no next one"
    assert page.value("tsctl_worker_prompt_tokens_total") == 12
    assert page.value("tsctl_worker_answer_tokens_total") == 35
    finishes = [page.value("tsctl_worker_finished_answers_total", finish=finish) for finish in ANSWER_ENDS]
    assert dict(zip(ANSWER_ENDS, finishes, strict=True)) == {"stop": 1, "length": 0, "error": 0, "cancelled": 1}
    assert page.value("tsctl_worker_answered_items_total", outcome="other") == 1
    assert (page.value("tsctl_worker_open_answers"), page.value("tsctl_worker_kv_cache_usage_ratio")) == (3, 0.25)
    assert described_on(page) == described(lambda metric: metric.kind != "gauge" or metric.is_text)
    finished(tmp_path, EVERYTHING_OF_TEXT)
    assert page.value("tsctl_worker_open_answers") == 3, "those of the worker that ended are forgotten"
    assert page.value("tsctl_worker_prompt_tokens_total") == 24


def test_a_worker_that_cannot_say_its_occupancy_still_counts(tmp_path: Path) -> None:
    log = finished(tmp_path, EVERYTHING_OF_TEXT.replace("lambda: (3, 0.25)", "lambda: 1 / 0"))
    assert "metrics are incomplete: tsctl_worker_open_answers failed" in log
    assert Page(tmp_path).value("tsctl_worker_prompt_tokens_total") == 12


def test_what_happens_to_requests_is_counted(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    folder.mkdir()
    finished(folder, SERVING, "toy", "1.0", str(tmp_path / "archive"))
    page = Page(folder)

    def counted(name: str, **labels: str) -> float | None:
        return page.value(f"tsctl_worker_{name}", **labels)

    assert counted("batch_items_count") == 6
    assert counted("batch_items_sum") == counted("answered_items_total", outcome="ok") + 2 == 14  # type: ignore[operator]
    assert counted("answered_items_total", outcome="model-failed") == 1
    assert counted("answered_items_total", outcome="does-not-fit-schema") == 1
    assert counted("cache_items_total", result="hit", tier="batch") == 1
    assert counted("cache_items_total", result="hit", tier="worker") == 1
    assert counted("cache_items_total", result="miss", tier="none") == 2 + 3 + 1 + 4
    assert counted("cache_items_total", result="wrong", tier="none") == 1
    assert counted("cache_items_total", result="bypass", tier="none") == 1
    assert counted("computed_items_total") == 2 + 4 + 1 + 1 + 4 + 3
    assert counted("bisections_total") == 2
    assert counted("memory_splits_total") == 1
    assert counted("input_positions_total", kind="content") == 3
    assert counted("input_positions_total", kind="padding") == 1
    for stage in STAGES:
        assert counted("stage_seconds_count", stage=stage) == (6 if stage == "decode" else 5), stage
        assert counted("stage_seconds_sum", stage=stage) > 0, stage  # type: ignore[operator]
    for batch in ("1", "2", "4", "8"):
        cold, warm = (counted("warmup_seconds", batch=batch, run=run) for run in ("cold", "warm"))
        assert cold >= warm > 0  # type: ignore[operator]


def test_the_warm_up_is_that_of_the_worker_that_loaded_last(tmp_path: Path) -> None:
    for seconds in (3.0, 1.0, 2.0):
        finished(tmp_path, WORKER + f"recorder.warmup(8, {seconds}, {seconds} / 2)")
    assert Page(tmp_path).value("tsctl_worker_warmup_seconds", batch="8", run="cold") == 2.0
    assert Page(tmp_path).value("tsctl_worker_warmup_seconds", batch="8", run="warm") == 1.0


def test_the_blocks_of_a_workers_files_are_set_aside_before_it_serves(tmp_path: Path) -> None:
    """No write may meet a full disk, because that ends the process with SIGBUS."""
    model, version = LONGEST
    finished(tmp_path, EVERYTHING, model, version)
    files = {path.name.rpartition("_")[0]: path.stat() for path in tmp_path.iterdir()}
    assert set(files) == set(FILES), "prometheus_client calls its files otherwise"
    for name, state in files.items():
        assert state.st_size == RESERVED, f"{name} grew"
        assert state.st_blocks * 512 >= RESERVED, f"{name} has holes"


def test_an_observation_that_fails_is_logged_once_and_raises_nothing(tmp_path: Path) -> None:
    logged = finished(tmp_path, "import logging\nlogging.basicConfig(format='%(message)s')\n" + BROKEN)
    assert logged.count("metrics are incomplete") == 1
    assert "tsctl_worker_stage_seconds nonsense failed" in logged
    assert "KeyError: ('tsctl_worker_stage_seconds', 'nonsense')" in logged
    assert Page(tmp_path).value("tsctl_worker_computed_items_total") == 5


OFF = """
import logging, os, resource, sys
logging.basicConfig(format="%(message)s")
BEFORE
from handlers.telemetry.metrics import telemetry
recorder = telemetry("toy", "1.0", True, os.environ["PROMETHEUS_MULTIPROC_DIR"])
assert not recorder.is_on
recorder.batch(1, {"ok": 1}, {"decode": 1.0})
"""


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        ("os.environ['PROMETHEUS_MULTIPROC_DIR'] += '/none'", "FileNotFoundError"),
        (
            "open('a-file', 'w').close()\nos.environ['PROMETHEUS_MULTIPROC_DIR'] = os.path.abspath('a-file')",
            "NotADirectoryError",
        ),
        ("resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))", "File too large"),
        ("sys.modules['prometheus_client'] = None", "ModuleNotFoundError"),
        (
            "folder = os.environ.pop('PROMETHEUS_MULTIPROC_DIR')\nimport prometheus_client\n"
            "os.environ['PROMETHEUS_MULTIPROC_DIR'] = folder",
            "imported before PROMETHEUS_MULTIPROC_DIR was set",
        ),
        (
            "path = os.environ['PROMETHEUS_MULTIPROC_DIR'] + f'/counter_{os.getpid()}.db'\n"
            "__import__('pathlib').Path(path).write_bytes(b'\\xff\\x00\\x00\\x00' + b'\\x01' * 4000)",
            "file is corrupted",
        ),
    ],
    ids=["no folder", "a file", "no space", "no package", "imported too early", "damaged by an earlier process"],
)
def test_where_metrics_cannot_be_written_they_are_off_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    logged = finished(tmp_path, OFF.replace("BEFORE", before))
    [line] = logged.splitlines()
    assert line.startswith("metrics of toy 1.0 are off: ")
    assert reason in line


def test_metrics_that_nobody_wants_or_collects_import_nothing(tmp_path: Path) -> None:
    script = (
        "import os, sys\nfrom handlers.telemetry.metrics import telemetry\n"
        "for wanted, folder in ((False, os.environ['PROMETHEUS_MULTIPROC_DIR']), (True, None), (True, '')):\n"
        "    recorder = telemetry('toy', '1.0', wanted, folder)\n"
        "    assert not recorder.is_on\n"
        "    recorder.batch(1, {'ok': 1}, {'decode': 1.0})\n"
        "    recorder.warmup(1, 1.0, 1.0)\n"
        "assert not any(name.startswith('prometheus_client') for name in sys.modules)\n"
    )
    assert finished(tmp_path, script) == ""
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_was_given_an_earlier_ones_pid_goes_on_with_its_files(tmp_path: Path) -> None:
    finished(tmp_path, WORKER + "one_batch()")
    rename = (
        "import os, pathlib\n"
        "for path in pathlib.Path(os.environ['PROMETHEUS_MULTIPROC_DIR']).iterdir():\n"
        "    path.rename(path.with_name(f'{path.stem.rpartition(chr(95))[0]}_{os.getpid()}.db'))\n"
    )
    finished(tmp_path, rename + WORKER + "one_batch()", version="2.0")
    assert len(list(tmp_path.iterdir())) == len(FILES)
    for version in ("1.0", "2.0"):
        assert Page(tmp_path, version=version).value("tsctl_worker_batch_items_count") == 1
