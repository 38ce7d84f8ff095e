"""Shows long work to a person: a live line on a terminal, plain lines anywhere else; writes to standard error only."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

#: Without a terminal, a step that is still busy says so at most this often.
PLAIN_INTERVAL_S = 5.0

#: Says what is happening right now; cheap enough to call at every poll.
Note = Callable[[str], None]


class Step:
    """One piece of work that a person waits for."""

    def __init__(self, progress: Progress, title: str) -> None:
        self._progress = progress
        self.title = title
        self.result = "done"
        self._last_plain = time.monotonic()

    def note(self, text: str) -> None:
        """Say what is happening right now; cheap enough to call at every poll."""
        self._progress._note(self, text)

    def done(self, result: str) -> None:
        """The words that the finished line ends with."""
        self.result = result


class Progress:
    """A column of finished steps and, on a terminal, the one that is running."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Runs the block as a step: announced, shown while it runs, and closed with its result and its seconds."""
        step = Step(self, title)
        begin = time.monotonic()
        try:
            if self.console.is_terminal:
                with self.console.status(escape(title)) as self._live:
                    yield step
            else:
                self.console.print(f"{escape(title)} ...")
                yield step
        except KeyboardInterrupt:
            self._close(step, "interrupted", "yellow", time.monotonic() - begin)
            raise
        except BaseException:
            self._close(step, "failed", "red", time.monotonic() - begin)
            raise
        self._close(step, step.result, "green", time.monotonic() - begin)

    def line(self, text: str) -> None:
        """A plain line between the steps."""
        self.console.print(escape(text))

    def _note(self, step: Step, text: str) -> None:
        if self.console.is_terminal:
            self._live.update(f"{escape(step.title)}  [dim]{escape(text)}[/dim]")
        elif time.monotonic() - step._last_plain >= PLAIN_INTERVAL_S:
            step._last_plain = time.monotonic()
            self.console.print(f"  {escape(step.title)}: {escape(text)}")

    def _close(self, step: Step, result: str, colour: str, seconds: float) -> None:
        self.console.print(
            f"{escape(step.title):<44} [{colour}]{escape(result)}[/{colour}]  [dim]{seconds:.1f} s[/dim]"
        )
