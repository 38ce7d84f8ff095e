"""config.pbtxt and the folders of a node's model repository."""

from __future__ import annotations

import pytest

from tsctl.nodes.triton.model_config import Batching, Tensor, instance_groups, model_config, numbered_groups
from tsctl.nodes.triton.repository import Served, with_workers


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
    inputs, outputs = [Tensor("pixels", "FP64", (8, 8))], [Tensor("label", "BYTES", (1,))]
    lines = model_config("digits", Batching(4, 20), instance_groups(1, 0), inputs=inputs, outputs=outputs).splitlines()
    assert lines[3:5] == [
        'input [{ name: "pixels" data_type: TYPE_FP64 dims: [8, 8] allow_ragged_batch: true }]',
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
