"""config.pbtxt and the folders of a node's model repository."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from tsctl.config.nodes import TritonSpec
from tsctl.config.project import Project
from tsctl.errors import NodeError
from tsctl.nodes.triton.engine import open_node
from tsctl.nodes.triton.model_config import Batching, Tensor, instance_groups, model_config, numbered_groups
from tsctl.nodes.triton.pending import read_pending
from tsctl.nodes.triton.process import Paths
from tsctl.nodes.triton.repository import Repository, Served, with_workers
from tsctl.nodes.triton.versions import read_defaults


def test_whole_bodies_are_bytes_of_any_length_and_batches_wait_for_nothing() -> None:
    assert (
        model_config("digits~1.0", Batching(32, 1), numbered_groups([1, 4], 0), parameters={"tsctl_version": "1.0"})
        == """\
name: "digits~1.0"
backend: "python"
max_batch_size: 32
input [{ name: "body" data_type: TYPE_UINT8 dims: [-1] allow_ragged_batch: true }]
output [{ name: "answer" data_type: TYPE_UINT8 dims: [-1] }]
instance_group [{ name: "w1" count: 1 kind: KIND_CPU rate_limiter { priority: 1 } }]
instance_group [{ name: "w4" count: 1 kind: KIND_CPU rate_limiter { priority: 4 } }]
dynamic_batching { }
parameters { key: "tsctl_version" value { string_value: "1.0" } }
"""
    )


def test_tensors_have_their_types_and_a_longer_delay_is_kept() -> None:
    inputs = [Tensor("pixels", "FP64", (8, 8)), Tensor("top", "INT64", (1,), is_optional=True)]
    outputs = [Tensor("label", "BYTES", (1,))]
    lines = model_config("digits", Batching(4, 20), instance_groups(1, 0), inputs=inputs, outputs=outputs).splitlines()
    assert lines[3:6] == [
        'input [{ name: "pixels" data_type: TYPE_FP64 dims: [8, 8] allow_ragged_batch: true }]',
        'input [{ name: "top" data_type: TYPE_INT64 dims: [1] optional: true allow_ragged_batch: true }]',
        'output [{ name: "label" data_type: TYPE_STRING dims: [1] }]',
    ]
    assert lines[-1] == "dynamic_batching { max_queue_delay_microseconds: 20000 }"


@pytest.mark.parametrize(
    ("workers", "gpus", "groups"),
    [
        (3, 0, ["count: 3 kind: KIND_CPU"]),
        (1, 2, ["count: 1 kind: KIND_GPU gpus: [0]"]),
        (3, 2, ["count: 2 kind: KIND_GPU gpus: [0]", "count: 1 kind: KIND_GPU gpus: [1]"]),
    ],
)
def test_workers_are_dealt_to_the_gpus_in_turn(workers: int, gpus: int, groups: list[str]) -> None:
    assert instance_groups(workers, gpus) == groups


def test_a_worker_stays_on_the_gpu_of_its_place() -> None:
    places = [group.partition("gpus: ")[2][:3] for group in numbered_groups([1, 5, 3], 2)]
    assert places == ["[0]", "[1]", "[0]"]


@pytest.mark.parametrize(
    ("numbers", "live", "workers", "after"),
    [
        ((1, 2), {1, 2}, 2, (1, 2)),
        ((1, 2), {1, 2}, 3, (1, 2, 3)),
        ((1, 2, 3), {1, 3}, 3, (1, 4, 3)),  # in the place of the dead one, which decides on the GPU
        ((1, 2, 3), {2, 3}, 1, (2,)),  # those that live stay
        ((), set(), 2, (1, 2)),
        ((1, 2), {1, 2}, 0, ()),
    ],
)
def test_workers_that_live_keep_their_numbers(
    numbers: tuple[int, ...], live: set[int], workers: int, after: tuple[int, ...]
) -> None:
    served = Served("digits", "1.0", "digits-1.0-0.mar", numbers, 120, 32, 1, failure="old")
    changed = with_workers(served, workers, live)
    assert (changed.numbers, changed.failure) == (after, "")


RECORD = asdict(Served("tiny", "1.0", "tiny-1.0-0123456789ab.mar", (1, 2), 30, 4, 1))


WRONG: tuple[dict[str, object], ...] = (
    {"numbers": 3}, {"numbers": ["1"]}, {"startup_s": "30"}, {"model": None}, {"batch_size": 1.5}, {"gpus": []},
)  # fmt: skip


@pytest.mark.parametrize(
    "damaged",
    ["", "[", "7", "{}", "[" * 100_000, '{"numbers": [1]}', *(json.dumps({**RECORD, **change}) for change in WRONG)],
    ids=range(12),
)
def test_a_record_of_wrong_types_is_none_and_stops_no_other(damaged: str, tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    repository = Repository(paths.repository)
    repository.records.mkdir()
    (repository.records / "tiny~1.0.json").write_text(json.dumps(RECORD))
    (repository.records / "odd~1.0.json").write_text(damaged)
    assert [served.key for served in repository.served()] == [("tiny", "1.0")]
    assert repository.find("odd", "1.0") is None
    paths.pending_restore.write_text(f"[{json.dumps(RECORD)}, {damaged}]")
    with pytest.raises(NodeError, match=r"triton-restore\.json is damaged"):
        read_pending(paths)
    folder = tmp_path / "project"
    node = open_node(Project(folder), "a", TritonSpec(engine="triton", address="http://127.0.0.1:1"), 1.0)
    node.folder.mkdir(parents=True)
    for content, read in ((damaged, {}), ('{"tiny": "1.0"}', {"tiny": "1.0"}), ('{"tiny": 1}', {})):
        node.paths.defaults.write_text(content)
        assert read_defaults(node) == read
