"""Shows progress on standard error: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

#: Without a terminal, a running step prints its note at most this often.
PLAIN_INTERVAL_S = 5.0

#: Reports the progress of an operation; cheap enough to call at every poll.
Note = Callable[[str], None]


class ProgressStep:
    """One piece of work that a person waits for."""

    def __init__(self, progress: Progress, title: str) -> None:
        self._progress = progress
        self.title = title
        self.result = "done"
        self._last_plain = time.monotonic()

    def note(self, text: str) -> None:
        """Show the progress; cheap enough to call at every poll."""
        self._progress._note(self, text)

    def done(self, result: str) -> None:
        """Set the result that the finished line ends with."""
        self.result = result


class Progress:
    """Prints finished steps and, on a terminal, the running one."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)

    @contextmanager
    def step(self, title: str) -> Iterator[ProgressStep]:
        """Run the block as a step; its line ends with the result and the seconds."""
        step = ProgressStep(self, title)
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
        """Print a plain line between the steps."""
        self.console.print(escape(text))

    def _note(self, step: ProgressStep, text: str) -> None:
        if self.console.is_terminal:
            self._live.update(f"{escape(step.title)}  [dim]{escape(text)}[/dim]")
        elif time.monotonic() - step._last_plain >= PLAIN_INTERVAL_S:
            step._last_plain = time.monotonic()
            self.console.print(f"  {escape(step.title)}: {escape(text)}")

    def _close(self, step: ProgressStep, result: str, colour: str, seconds: float) -> None:
        self.console.print(
            f"{escape(step.title):<44} [{colour}]{escape(result)}[/{colour}]  [dim]{seconds:.1f} s[/dim]"
        )
