"""What every fuzz target is made of, and the bounds that hold for one input on each of them.

Nothing here needs atheris, so that the inputs that ever found a defect are replayed wherever the tests run.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Protocol

#: Processor seconds and megabytes that one input may take; the largest picture of 4 million pixels needs some 0.5 s
#: and 100 MB. The clock on the wall is bounded by the engine, with more room, because other processes run as well.
LIMIT_CPU_S = 6.0
LIMIT_MB = 400


class Mutate(Protocol):
    """Changes bytes at random, to at most so many: the fuzzing engine's own mutator."""

    def __call__(self, content: bytes, longest: int, /) -> bytes: ...


@dataclass(frozen=True)
class Surface:
    """One way by which bytes come into a worker.

    Args:
        check: raises for an input that breaks an invariant.
        seeds: inputs to begin with, by name.
        mutate: a changed input of at most so many bytes, that keeps enough of the format to get past its outer checks.
        tokens: pieces of the format that random bytes would hardly hit.
        longest: bytes of an input.
    """

    check: Callable[[bytes], None]
    seeds: Mapping[str, bytes]
    mutate: Callable[[bytes, int, Random, Mutate], bytes]
    tokens: tuple[bytes, ...] = ()
    longest: int = 4096


def bounded(check: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """The check, which raises as well where an input takes more processor time or memory than any may."""
    allowed_mb = peak_mb() + LIMIT_MB

    def run(content: bytes) -> None:
        begin = time.process_time()
        check(content)
        spent_s = time.process_time() - begin
        assert spent_s <= LIMIT_CPU_S, f"the input took {spent_s:.1f} s of processor time"
        assert peak_mb() <= allowed_mb, f"the process has held {peak_mb():.0f} MB, and {allowed_mb:.0f} are enough"

    return run


def peak_mb() -> float:
    """The most memory that this process has held at a time."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
