"""Gives OpenVINO's network of a GGUF file the file's own zero points.

A weight of type Q4_1 or Q4_K is `scale * quant + minimum`. openvino_genai reads it as `scale * (quant - zero point)`
with a zero point of 4 bits, which it rounds: of SmolLM2's weights 8 % are lost (root of the mean square). The network
takes zero points in float16 as well, and is as fast with them. Which row of the file is which of the network is found
by the quants, because OpenVINO orders rows in a way of its own.

Formats: block_q4_1 and block_q4_K of https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from handlers.text.backends.gguf import Blocks, read_blocks

logger = logging.getLogger(__name__)

_Q4_1, _Q4_K = 3, 12
#: Weights and bytes of a block.
_KINDS = {_Q4_1: (32, 20), _Q4_K: (256, 144)}
#: Weights that share a scale.
_GROUP = 32
_MOST = 15  # of a zero point that is rounded


def set_zero_points(network: Any, weights: Path) -> int:
    """Replace the rounded zero points of all 4-bit matrices; returns of how many matrices they stay rounded.

    Raises:
        LoadError: the file cannot be read.
    """
    from openvino import opset13

    rounded = list(_rounded(network))
    if not rounded:
        return 0
    rows = _zero_points_of_rows(weights)
    left = 0
    for node, quants, before in rounded:
        found = [rows.get(_key(row)) for row in quants]
        exact = _matching(found, before)
        if exact is None:
            left += 1
            continue
        node.input(1).replace_source_output(opset13.constant(exact[..., None]).output(0))
    if left:
        logger.info("%d of %d matrices of %s keep rounded zero points", left, len(rounded), weights.name)
    return left


def _matching(found: Sequence[np.ndarray | None], before: np.ndarray) -> np.ndarray | None:
    """Zero points in float16, shape (rows, groups); None unless they are what was rounded."""
    rows = [row for row in found if row is not None]
    if len(rows) < len(found) or {row.shape for row in rows} != {before.shape[1:]}:
        return None
    exact = np.stack(rows)
    is_near = np.abs(exact.clip(0, _MOST).astype(np.float32) - before) < 0.6  # half a step, and float16's rounding
    return exact if is_near.all() else None


def _rounded(network: Any) -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
    """Each difference of 4-bit weights and zero points: its node, quants as bytes by row, and zero points."""
    for node in network.get_ordered_ops():
        if node.get_type_name() != "Subtract":
            continue
        quants, points = (_converted(node, number) for number in (0, 1))
        if quants is None or points is None or quants.get_output_shape(0)[-1] != _GROUP:
            continue
        rows, groups = list(quants.get_output_shape(0))[:2]
        packed = quants.data.reshape(-1).view(np.uint8)
        yield node, packed.reshape(rows, -1), _unpacked(points.data)[: rows * groups].reshape(rows, groups)


def _converted(node: Any, number: int) -> Any:
    """The constant of 4-bit integers behind an input; None where there is none."""
    convert = node.input_value(number).get_node()
    if convert.get_type_name() != "Convert":
        return None
    constant = convert.input_value(0).get_node()
    is_small = constant.get_type_name() == "Constant" and constant.get_element_type().get_type_name() == "u4"
    return constant if is_small else None


def _unpacked(data: np.ndarray) -> np.ndarray:
    packed = data.reshape(-1).view(np.uint8)
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(-1)


def _zero_points_of_rows(weights: Path) -> dict[bytes, np.ndarray | None]:
    """Zero points of each row of the file's 4-bit matrices, by its quants; None where two rows have the same quants."""
    found: dict[bytes, np.ndarray | None] = {}
    for blocks in read_blocks(weights, _KINDS):
        quants, points = (_q4_1 if blocks.kind == _Q4_1 else _q4_k)(blocks)
        packed = quants[:, 0::2] | (quants[:, 1::2] << 4)
        for row, of_row in zip(packed, points, strict=True):
            key = _key(row)
            known = found.setdefault(key, of_row)
            if known is not None and not np.array_equal(known, of_row):
                found[key] = None
    return found


def _key(row: np.ndarray) -> bytes:
    return blake2b(row.tobytes(), digest_size=16).digest()


def _q4_1(blocks: Blocks) -> tuple[np.ndarray, np.ndarray]:
    """Quants of shape (rows, weights), uint8, and zero points of shape (rows, groups), float16."""
    data = blocks.data
    quants = np.concatenate([data[..., 4:] & 15, data[..., 4:] >> 4], axis=-1)
    return quants.reshape(len(data), -1), _points(_halves(data, 0), _halves(data, 2))


def _q4_k(blocks: Blocks) -> tuple[np.ndarray, np.ndarray]:
    """The same. A block has 8 groups, with scales and minima of 6 bits each."""
    data = blocks.data
    packed, body = data[..., 4:16], data[..., 16:].reshape(*data.shape[:2], 4, _GROUP)
    low, middle, high = packed[..., 0:4], packed[..., 4:8], packed[..., 8:12]
    scales = np.concatenate([low & 63, (high & 15) | ((low >> 6) << 4)], axis=-1)
    minima = np.concatenate([middle & 63, (high >> 4) | ((middle >> 6) << 4)], axis=-1)
    quants = np.stack([body & 15, body >> 4], axis=-2)
    by_group = _halves(data, 0)[..., None] * scales, -_halves(data, 2)[..., None] * minima
    return quants.reshape(len(data), -1), _points(*(each.reshape(len(data), -1) for each in by_group))


def _halves(data: np.ndarray, place: int) -> np.ndarray:
    numbers: np.ndarray = data[..., place : place + 2].copy().view(np.float16)[..., 0].astype(np.float32)
    return numbers


def _points(scales: np.ndarray, minima: np.ndarray) -> np.ndarray:
    """`-minimum / scale`; 0 where the scale is, whose weights are all its minimum."""
    points: np.ndarray = np.divide(-minima, scales, out=np.zeros_like(scales), where=scales != 0)
    return points.astype(np.float16)
