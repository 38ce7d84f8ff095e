"""A short vector whose distances are about those of a long one. Pure.

Source: Achlioptas, "Database-friendly random projections" (2003): signs from a fair coin keep squared distances, with a
relative standard deviation of sqrt(2 / SKETCH).
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np

#: Numbers of a sketch.
SKETCH = 16
#: A longer vector has no sketch: its signs would take too much memory.
LONGEST = 1 << 16


def sketch(vector: np.ndarray) -> list[float] | None:
    """The sketch of a vector of shape (n,), of SKETCH numbers; None where n is 0 or more than LONGEST, or a
    number or sum is beyond float32.

    Vectors of the same length have the same signs, in every process and with every version of NumPy.
    """
    if not 0 < len(vector) <= LONGEST:
        return None
    with np.errstate(over="ignore", invalid="ignore"):  # of numbers beyond float32, which have no sketch
        sums = (vector.astype(np.float32) @ _signs(len(vector))).astype(float)
    if not np.isfinite(sums).all():
        return None
    return [float(f"{value / SKETCH**0.5:.6g}") for value in sums.tolist()]


@lru_cache(4)
def _signs(length: int) -> np.ndarray:
    """Signs of shape (length, SKETCH), float32: the bits of SHAKE-128, which no library may change."""
    bits = np.unpackbits(np.frombuffer(hashlib.shake_128(b"sketch").digest(length * SKETCH // 8), np.uint8))
    return bits.reshape(length, SKETCH).astype(np.float32) * 2 - 1
