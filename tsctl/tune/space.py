"""Which settings are tried. Pure.

A point is one Settings. The present settings are always a point, also where no rule would have made them one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import product
from typing import Any

#: Items of a batch that are tried.
BATCHES = (1, 4, 8, 16, 32, 64, 128)
#: Milliseconds for which an engine that waits for a batch to fill may do so.
DELAYS_MS = (1, 2, 5, 10)
DTYPES = ("float32", "bf16")
#: How much larger a batch is that is much larger.
JUMP = 4


@dataclass(frozen=True, order=True)
class Settings:
    """One way of serving the archive.

    Args:
        batch: items at most.
        delay_ms: for which the engine waits for more items; without meaning on an engine that does not wait.
        workers: processes.
        threads: of computation in each of them.
        dtype: of the network's weights, as archive.yaml has it.
    """

    engine: str
    batch: int
    delay_ms: int
    workers: int
    threads: int
    compile: bool = False
    dtype: str = "float32"

    @property
    def text(self) -> str:
        """All of it, on one line."""
        parts = [self.engine, f"batch {self.batch}", f"{self.workers}x{self.threads}", f"{self.delay_ms} ms"]
        return " ".join([*parts, *(["compiled"] if self.compile else []), *([self.dtype] if self.is_lowered else [])])

    @property
    def is_lowered(self) -> bool:
        """Whether it computes with fewer bits than float32."""
        return self.dtype != "float32"

    def changes(self, other: Settings) -> dict[str, tuple[Any, Any]]:
        """The value here and the value there, of each setting that differs."""
        pairs = {name: (value, getattr(other, name)) for name, value in asdict(self).items()}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


#: The names of the settings, in their order.
NAMES = tuple(one.name for one in fields(Settings))


@dataclass(frozen=True)
class Space:
    """Every combination that may be tried.

    Args:
        shapes: workers, and threads of each.
        delays: of the engines that wait for a batch to fill; another engine has one delay only, the present one.
        fixed: why a setting has one value only, by its name.
    """

    present: Settings
    engines: tuple[str, ...]
    batches: tuple[int, ...]
    shapes: tuple[tuple[int, int], ...]
    delays: Mapping[str, tuple[int, ...]]
    compiles: tuple[bool, ...] = (False,)
    dtypes: tuple[str, ...] = ("float32",)
    fixed: Mapping[str, str] = field(default_factory=dict)

    def delays_of(self, engine: str) -> tuple[int, ...]:
        """Milliseconds that are tried on this engine."""
        return self.delays.get(engine, (self.present.delay_ms,))

    def points(self) -> Iterator[Settings]:
        """Yield every combination once: settings that need another archive vary least often, the shape most often."""
        for engine, dtype, is_compiled, batch in product(self.engines, self.dtypes, self.compiles, self.batches):
            for delay_ms, (workers, threads) in product(self.delays_of(engine), sorted(self.shapes, key=_by_threads)):
                yield Settings(engine, batch, delay_ms, workers, threads, is_compiled, dtype)

    @property
    def size(self) -> int:
        """How many combinations there are."""
        delays = sum(len(self.delays_of(engine)) for engine in self.engines)
        return delays * len(self.batches) * len(self.shapes) * len(self.compiles) * len(self.dtypes)

    def without(self, name: str, reason: str) -> Space:
        """The space in which `compile` or `dtype` stays as it is, because the archive cannot have another value."""
        values = {"compiles": (self.present.compile,)} if name == "compile" else {"dtypes": (self.present.dtype,)}
        return Space(**{**self._fields(), **values, "fixed": {**self.fixed, name: reason}})

    def _fields(self) -> dict[str, Any]:
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def lines(self) -> list[str]:
        """What is tried, for people."""
        varied = {
            "engine": ", ".join(self.engines),
            "batch": ", ".join(map(str, self.batches)),
            "workers x threads": ", ".join(f"{workers}x{threads}" for workers, threads in self.shapes),
            "delay_ms": "; ".join(
                f"{engine}: {', '.join(map(str, self.delays_of(engine)))}" for engine in self.engines
            ),
            "compile": ", ".join("yes" if value else "no" for value in self.compiles),
            "dtype": ", ".join(self.dtypes),
        }
        width = max(map(len, varied))
        return [
            f"{name:<{width}}  {values}{f'  ({self.fixed[name]})' if name in self.fixed else ''}"
            for name, values in varied.items()
        ]


def make_space(
    present: Settings,
    engines: Sequence[str],
    waiting: Sequence[str],
    cores: int,
    fixed: Mapping[str, str],
    batches: Sequence[int] = BATCHES,
) -> Space:
    """The space around the present settings.

    Args:
        engines: that are tried; the present one comes first where it is among them.
        waiting: those of them that wait for a batch to fill.
        cores: that workers and threads share: workers times threads is no more.
        fixed: why `compile` or `dtype` cannot vary, such as for a model that is no network of torch.
    """
    shapes = {(workers, threads) for workers in shares(cores) for threads in shares(cores // workers)}
    return Space(
        present,
        tuple(sorted(set(engines), key=lambda engine: (engine != present.engine, list(engines).index(engine)))),
        tuple(sorted({*batches, present.batch})),
        tuple(sorted(shapes | {(present.workers, present.threads)})),
        {engine: tuple(sorted({*DELAYS_MS, present.delay_ms})) for engine in waiting},
        (present.compile,) if "compile" in fixed else (False, True),
        (present.dtype,) if "dtype" in fixed else DTYPES,
        dict(fixed),
    )


def shares(cores: int) -> list[int]:
    """The powers of two up to the number of cores, and that number."""
    return sorted({1 << power for power in range(cores.bit_length()) if 1 << power <= cores} | {max(1, cores)})


def designs(space: Space) -> list[Settings]:
    """The points to try before any was measured: the present settings, and three that change one thing each.

    One worker of one thread a core, which makes the most of small networks; one worker with all cores, for large ones;
    and a batch that is much larger, or smaller where none is.
    """
    present, engine = space.present, space.engines[0]
    delays = space.delays_of(engine)
    delay_ms = present.delay_ms if present.delay_ms in delays else delays[0]
    first = replace(present, engine=engine, delay_ms=delay_ms)
    most = max(space.shapes, key=lambda shape: (shape[0], -shape[1]))
    widest = max(space.shapes, key=lambda shape: (shape[1], -shape[0]))
    larger = [batch for batch in space.batches if batch > present.batch]
    smaller = [batch for batch in space.batches if JUMP * batch <= present.batch]
    far = [batch for batch in larger if batch >= JUMP * present.batch][:1] or larger[-1:] or smaller[-1:]
    found = [
        first,
        replace(first, workers=most[0], threads=most[1]),
        *(replace(first, batch=batch) for batch in far),
        replace(first, workers=widest[0], threads=widest[1]),
    ]
    return list(dict.fromkeys(found))


def _by_threads(shape: tuple[int, int]) -> tuple[int, int]:
    """Workers can be added to a version that is served; other threads need another archive."""
    return shape[1], shape[0]
