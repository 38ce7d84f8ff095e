"""config.pbtxt and the folders of a node's model repository."""

from __future__ import annotations

import pytest

from tsctl.nodes.triton.model_config import Batching, Tensor, instance_groups, model_config


def test_whole_bodies_are_bytes_of_any_length_and_batches_wait_for_nothing() -> None:
    assert (
        model_config("digits~1.0", Batching(32, 1), 2, parameters={"tsctl_version": "1.0"})
        == """\
name: "digits~1.0"
backend: "python"
max_batch_size: 32
input [{ name: "body" data_type: TYPE_UINT8 dims: [-1] allow_ragged_batch: true }]
output [{ name: "answer" data_type: TYPE_UINT8 dims: [-1] }]
instance_group [{ count: 2 kind: KIND_CPU }]
dynamic_batching { }
parameters { key: "tsctl_version" value { string_value: "1.0" } }
"""
    )


def test_tensors_have_their_types_and_a_longer_delay_is_kept() -> None:
    inputs, outputs = [Tensor("pixels", "FP64", (8, 8))], [Tensor("label", "BYTES", (1,))]
    lines = model_config("digits", Batching(4, 20), 1, inputs=inputs, outputs=outputs).splitlines()
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
