"""How large the heap of a node's JVM may become, by its arguments and its machine. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

#: Of the machine's memory, where no argument says otherwise.
DEFAULT_SHARE = Fraction(1, 4)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"-(?:Xmx|XX:MaxHeapSize=)(\d+)([kmgt]?)", re.IGNORECASE)
_PERCENTAGE = re.compile(r"-XX:MaxRAMPercentage=(\d+(?:\.\d*)?)")


def heap_bytes(arguments: Sequence[str], machine_bytes: int) -> int:
    """The largest size of the heap. A size goes before a percentage, and the last argument of a kind counts."""
    sizes = [int(found[1]) * _UNITS[found[2].lower()] for word in arguments if (found := _SIZE.fullmatch(word))]
    shares = [Fraction(found[1]) / 100 for word in arguments if (found := _PERCENTAGE.fullmatch(word))]
    return sizes[-1] if sizes else int(machine_bytes * (shares[-1] if shares else DEFAULT_SHARE))
