"""Finds the items that make a batch fail, answers the others, and remembers the batch size that fits into memory.

Pure: the model and the clock come in as arguments. A batch that fails is halved until the failing items stand alone;
where the first half works, the second is known to hold the culprit and is halved without being run. One culprit among n
items so costs between log2(n) and 2 log2(n) further runs, each on half as many items as the one before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any


class GaveUp(Exception):
    """The item's batch failed, and the time to find out which item did it was over."""


class Broken(Exception):
    """The device or process can run nothing any more; every item of the batch shares this outcome."""


class Panicked(Exception):
    """The model raised a BaseException, such as a panic of a tokenizer's Rust code."""


class Isolation:
    """Runs batches for one worker.

    Args:
        run: the answers to a list of items, one each, or an exception for all of them.
        is_out_of_memory: whether an exception says that the batch was too large.
        is_fatal: whether an exception says that nothing can be run any more.
        budget_s: seconds after the first failure of a batch in which it may be halved further.
        clock: monotonic seconds.
        on_split: is called each time that a batch is halved, with whether memory was the reason.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Any]], list[Any]],
        is_out_of_memory: Callable[[Exception], bool],
        is_fatal: Callable[[Exception], bool],
        budget_s: float,
        clock: Callable[[], float],
        on_split: Callable[[bool], None] = lambda is_memory: None,
    ) -> None:
        self._run = run
        self._is_out_of_memory = is_out_of_memory
        self._is_fatal = is_fatal
        self._budget_s = budget_s
        self._clock = clock
        self._on_split = on_split
        self.safe_size: int | None = None  # the largest batch that may be tried; None: any
        self.last_split = ""  # why a batch was last halved
        self.is_broken = False

    def outcomes(self, items: Sequence[Any]) -> list[Any]:
        """An answer, or the exception that stands for it, for each item."""
        outcomes: list[Any] = []
        begin = 0
        while begin < len(items):
            part = items[begin : begin + (self.safe_size or len(items))]
            outcomes += _Attempt(self, part).outcomes()
            begin += len(part)
        return outcomes


class _Attempt:
    """One batch in `Isolation`."""

    def __init__(self, isolation: Isolation, items: Sequence[Any]) -> None:
        self._isolation = isolation
        self._items = items
        self._outcomes: list[Any] = [None] * len(items)
        self._end: float | None = None  # set by the first failure
        self._is_one_too_large = False

    def outcomes(self) -> list[Any]:
        safe_size = self._isolation.safe_size
        self._solve(0, len(self._items), is_known_bad=False)
        if self._is_one_too_large:  # it was the item and not the number: batches of others stay as large as they were
            self._isolation.safe_size = safe_size
        return self._outcomes

    def _solve(self, begin: int, end: int, is_known_bad: bool) -> bool:
        """Fill the outcomes from `begin` to `end`; True if all of them are answers."""
        is_memory = False
        if end - begin == 1 or not is_known_bad:
            error = self._try(begin, end)
            if error is None:
                return True
            is_memory = self._isolation._is_out_of_memory(error)
            if end - begin == 1 or isinstance(error, GaveUp | Broken):
                self._outcomes[begin:end] = [error] * (end - begin)
                self._is_one_too_large |= is_memory
                return False
            self._isolation._on_split(is_memory)
            self._isolation.last_split = f"{type(error).__name__}: {error}"
            if is_memory:
                self._isolation.safe_size = (end - begin) // 2
        middle = (begin + end) // 2
        left = self._solve(begin, middle, is_known_bad=False)
        return self._solve(middle, end, is_known_bad=left and not is_memory) and left

    def _try(self, begin: int, end: int) -> Exception | None:
        """Run a part and keep its answers; the exception where there are none."""
        isolation = self._isolation
        if isolation.is_broken:
            return Broken("nothing can be run any more")
        if self._end is not None and isolation._clock() > self._end:
            return GaveUp("the time to find the failing item is over")
        try:
            self._outcomes[begin:end] = isolation._run(self._items[begin:end])
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as raised:  # noqa: BLE001 - a model may raise anything; it becomes the outcome of its items
            error = raised if isinstance(raised, Exception) else _panicked(raised)
            if isolation._is_fatal(error):
                isolation.is_broken = True
                broken = Broken(f"{type(error).__name__}: {error}")
                broken.__cause__ = error  # with its traceback, for the log
                return broken
            if self._end is None:
                self._end = isolation._clock() + isolation._budget_s
            return error.with_traceback(None) if isolation._is_out_of_memory(error) else error
        return None


def _panicked(raised: BaseException) -> Panicked:
    return Panicked(f"{type(raised).__name__}: {raised}").with_traceback(raised.__traceback__)


class Quarantine:
    """Digests of items that made the model fail, each held for a while, so that a retry costs no batch again."""

    def __init__(self, hold_s: float, size: int, clock: Callable[[], float]) -> None:
        self._hold_s = hold_s
        self._size = size
        self._clock = clock
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._until)

    def add(self, digest: bytes) -> None:
        """Hold the digest from now on; the oldest one leaves where there are too many."""
        self._until.pop(digest, None)
        self._until[digest] = self._clock() + self._hold_s
        if len(self._until) > self._size:
            self._until.popitem(last=False)

    def holds(self, digest: bytes) -> bool:
        """Whether the digest is held now; expired ones are dropped."""
        while self._until and next(iter(self._until.values())) <= self._clock():
            self._until.popitem(last=False)
        return digest in self._until
