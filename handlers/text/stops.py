"""Ends an answer at a stop sequence, without letting a part of one out."""

from __future__ import annotations

from collections.abc import Sequence


class Stops:
    """Takes the text of one answer piece by piece, and gives what is certainly before any stop sequence.

    Args:
        sequences: none of them empty; the first place where one of them begins ends the answer.
    """

    def __init__(self, sequences: Sequence[str]) -> None:
        if not all(sequences):
            raise ValueError("a stop sequence is empty")
        self._sequences = tuple(sequences)
        self._held = ""
        self.is_found = False

    def feed(self, text: str) -> str:
        """The text that may go out now; once `is_found`, it is the last of it."""
        if self.is_found or not self._sequences:
            return "" if self.is_found else text
        self._held += text
        starts = [place for one in self._sequences if (place := self._held.find(one)) >= 0]
        if starts:
            # one that began earlier may still be coming: `abc` is found in `abcd` before `abcde` is complete, but a
            # longer one that begins before it waits
            first = min(starts)
            if self._first_open() >= first:
                self.is_found = True
                out, self._held = self._held[:first], ""
                return out
        cut = self._first_open()
        out, self._held = self._held[:cut], self._held[cut:]
        return out

    def end(self) -> str:
        """The text that waited for the rest of a stop sequence, when no more comes."""
        out, self._held = self._held, ""
        found = [place for one in self._sequences if (place := out.find(one)) >= 0]
        if found:
            self.is_found = True
            return out[: min(found)]
        return out

    def _first_open(self) -> int:
        """The first place from which the held text is the beginning of a stop sequence, and not all of it."""
        longest = max(map(len, self._sequences))
        for place in range(max(0, len(self._held) - longest + 1), len(self._held)):
            rest = self._held[place:]
            if any(len(one) > len(rest) and one.startswith(rest) for one in self._sequences):
                return place
        return len(self._held)
