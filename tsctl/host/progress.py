"""Shows progress on standard error: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.markup import escape as without_markup

from tsctl.errors import printable

#: Without a terminal, a running step prints its note at most this often, and one that says the same again this often.
PLAIN_INTERVAL_S, SAME_INTERVAL_S = 5.0, 60.0

#: Reports the progress of an operation; cheap enough to call at every poll.
Note = Callable[[str], None]


def escape(text: str) -> str:
    """The text as it is printed: without markup, and without characters that a terminal obeys."""
    return without_markup(printable(text, kept="\n"))


class ProgressStep:
    """One piece of work that a person waits for."""

    def __init__(self, console: Console, title: str) -> None:
        self.title = escape(title)
        self.live = console.status(self.title) if console.is_terminal else None
        self.result = "done"
        self._console = console
        self._last_plain = time.monotonic()
        self._last_text = ""

    def note(self, text: str) -> None:
        """Show the progress; cheap enough to call at every poll."""
        if self.live is not None:
            self.live.update(f"{self.title}  [dim]{escape(text)}[/dim]")
        elif time.monotonic() - self._last_plain >= (SAME_INTERVAL_S if text == self._last_text else PLAIN_INTERVAL_S):
            self._last_plain, self._last_text = time.monotonic(), text
            self._console.print(f"  {self.title}: {escape(text)}")

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
        step = ProgressStep(self.console, title)
        begin = time.monotonic()
        if step.live is None:
            self.console.print(f"{step.title} ...")
        result, colour = "failed", "red"
        try:
            with step.live or nullcontext():
                yield step
            result, colour = step.result, "green"
        except KeyboardInterrupt:
            result, colour = "interrupted", "yellow"
            raise
        finally:
            seconds = f"[dim]{time.monotonic() - begin:.1f} s[/dim]"
            self.console.print(f"{step.title:<44} [{colour}]{escape(result)}[/{colour}]  {seconds}")

    def line(self, text: str) -> None:
        """Print a plain line between the steps."""
        self.console.print(escape(text))


def quiet_progress() -> Progress:
    """A progress that prints nothing, for steps inside of another one."""
    return Progress(Console(quiet=True))
