"""config.pbtxt of one version, from its archive's model-config.yaml. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from handlers.contract import TRITON_ANSWER, TRITON_BODY

#: TorchServe cannot wait less than this for a batch, so an archive that says it wants no wait.
NO_DELAY_MS = 1


@dataclass(frozen=True)
class Tensor:
    """An input or output of a model, without the dimension of its rows."""

    name: str
    datatype: str  # of the Open Inference Protocol, such as FP64
    shape: tuple[int, ...]  # -1: any size
    is_optional: bool = False  # of an input: whether a client may leave it out


@dataclass(frozen=True)
class Batching:
    """How requests become batches."""

    size: int
    max_delay_ms: int


RAW_INPUTS = (Tensor(TRITON_BODY, "UINT8", (-1,)),)
RAW_OUTPUTS = (Tensor(TRITON_ANSWER, "UINT8", (-1,)),)


def model_config(
    name: str,
    batching: Batching,
    groups: Sequence[str],
    inputs: Sequence[Tensor] = RAW_INPUTS,
    outputs: Sequence[Tensor] = RAW_OUTPUTS,
    parameters: Mapping[str, str] | None = None,
) -> str:
    """The text of config.pbtxt.

    There is no queue policy: with one (a bound, or a timeout), Triton 2.51 takes the next batch up to half a second
    late. The gateway bounds what waits, and the worker refuses what waited too long.

    Args:
        groups: of instances, as `instance_groups` or `workers` make them.
    """
    delay_us = 0 if batching.max_delay_ms <= NO_DELAY_MS else batching.max_delay_ms * 1000
    batcher = f"max_queue_delay_microseconds: {delay_us} " if delay_us else ""
    lines = [
        f"name: {_text(name)}",
        'backend: "python"',
        f"max_batch_size: {batching.size}",
        *(f"input [{{ {_tensor(tensor)} allow_ragged_batch: true }}]" for tensor in inputs),
        *(f"output [{{ {_tensor(tensor)} }}]" for tensor in outputs),
        *(f"instance_group [{{ {group} }}]" for group in groups),
        f"dynamic_batching {{ {batcher}}}",
        *(
            f"parameters {{ key: {_text(key)} value {{ string_value: {_text(value)} }} }}"
            for key, value in (parameters or {}).items()
        ),
    ]
    return "\n".join(lines) + "\n"


def instance_groups(workers: int, gpus: int) -> list[str]:
    """The workers on the CPU, or so many on each GPU; Triton counts the instances of a group for each of its GPUs."""
    if not gpus:
        return [f"count: {workers} kind: KIND_CPU"]
    shares = [len(range(gpu, workers, gpus)) for gpu in range(gpus)]
    return [f"count: {share} kind: KIND_GPU gpus: [{gpu}]" for gpu, share in enumerate(shares) if share]


def numbered_groups(numbers: Sequence[int], gpus: int) -> list[str]:
    """A group for each worker, so that one of them can be replaced alone.

    Triton keeps the instances of a group that it had before, whatever its name. So the number is also in a setting
    that has no effect, because nodes limit no rates: a worker with a new number is started, and one without its number
    is ended.
    """
    return [
        f'name: "w{number}" count: 1 {f"kind: KIND_GPU gpus: [{place % gpus}]" if gpus else "kind: KIND_CPU"}'
        f" rate_limiter {{ priority: {number} }}"
        for place, number in enumerate(numbers)
    ]


def _tensor(tensor: Tensor) -> str:
    datatype = "STRING" if tensor.datatype == "BYTES" else tensor.datatype
    dims = ", ".join(map(str, tensor.shape))
    optional = " optional: true" if tensor.is_optional else ""
    return f"name: {_text(tensor.name)} data_type: TYPE_{datatype} dims: [{dims}]{optional}"


def _text(value: str) -> str:
    """A quoted text, as the format of protocol buffers has it; escapes of JSON are among its own but for `\\u`."""
    return json.dumps(value, ensure_ascii=False)
