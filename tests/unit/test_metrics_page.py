"""docs/metrics.md says what handlers/telemetry/metrics.py exports; a node's workers see where to write it, anew."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from handlers.contract import METRICS_FOLDER_VARIABLE
from handlers.telemetry import metrics as telemetry
from tsctl.nodes.process import empty_metrics
from tsctl.nodes.torchserve.paths import NodePaths
from tsctl.nodes.torchserve.process import node_environment
from tsctl.nodes.torchserve.properties import parse_properties

CHECKOUT = Path(__file__).resolve().parents[2]
PAGE = (CHECKOUT / "docs" / "metrics.md").read_text(encoding="utf-8")
#: Labels whose values the page does not list one by one.
OUTCOME, BATCH = ("tsctl_worker_answered_items_total", "outcome"), ("tsctl_worker_warmup_seconds", "batch")


def rows(heading: str) -> list[list[str]]:
    """Cells of the table under a heading of the page."""
    section = PAGE.partition(f"\n## {heading}\n")[2].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def quoted(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"`([^`]+)`", text))


def test_the_page_has_every_metric_with_its_type_and_labels() -> None:
    written = {quoted(name)[0]: (kind, quoted(labels)) for name, kind, labels, _, _ in rows("Metrics")}
    assert written == {name: (metric.kind, tuple(metric.labels)) for name, metric in telemetry.METRICS.items()}


def test_the_page_has_the_values_of_every_closed_label() -> None:
    written = {
        (quoted(name)[0], quoted(label)[0]): quoted(values) for name, label, values in rows("Values of the labels")
    }
    closed = {
        (name, label): metric.labels[label] for name, metric in telemetry.METRICS.items() for label in metric.labels
    }
    assert closed.pop(BATCH) is None
    assert {"ok", "does-not-fit-schema", "model-failed", "other"} <= set(closed.pop(OUTCOME) or ())
    assert {"ok", "does-not-fit-schema", "model-failed", "other"} <= set(written.pop(OUTCOME))
    assert written == closed


def test_queries_name_metrics_that_exist() -> None:
    queries = PAGE.partition("\n## Queries\n")[2]
    named = set(re.findall(r"tsctl_\w+", queries))
    assert named
    assert {name.removesuffix("_bucket") for name in named} <= set(telemetry.METRICS)


@pytest.mark.parametrize("name", telemetry.METRICS)
def test_names_end_with_their_unit(name: str) -> None:
    kind = telemetry.METRICS[name].kind
    assert re.fullmatch(r"tsctl_worker(_[a-z]+)+", name)
    assert name.endswith("_total") == (kind == "counter")
    assert kind == "counter" or name.endswith(("_seconds", "_items", "_answers", "_ratio"))


def test_buckets_reach_from_a_linear_layer_to_a_timeout() -> None:
    assert telemetry.STAGE_BUCKETS[0] == 0.0001
    assert telemetry.STAGE_BUCKETS[-1] == 30
    assert telemetry.BATCH_BUCKETS == (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def test_workers_of_a_node_are_told_where_to_write(tmp_path: Path) -> None:
    environment = node_environment({METRICS_FOLDER_VARIABLE: "/of/the/operator"}, NodePaths(tmp_path), tmp_path, {})
    assert environment[METRICS_FOLDER_VARIABLE] == str(tmp_path / "metrics")
    properties = parse_properties((CHECKOUT / "config.properties").read_text(encoding="utf-8"))
    kept_from_workers = re.compile(properties["blacklist_env_vars"])
    assert not kept_from_workers.match(METRICS_FOLDER_VARIABLE)
    assert kept_from_workers.match("PROMETHEUS_PASSWORD")


def test_a_start_makes_the_folder_its_owners_alone_and_removes_earlier_files(tmp_path: Path) -> None:
    real, folder = tmp_path / "elsewhere", tmp_path / "metrics"
    real.mkdir(mode=0o755)
    folder.symlink_to(real)  # a link to another disk stays one
    (real / "counter_1.db").write_bytes(b"old")
    empty_metrics(folder)
    assert folder.is_symlink()
    assert list(real.iterdir()) == []
    assert real.stat().st_mode & 0o777 == 0o700
    empty_metrics(tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
