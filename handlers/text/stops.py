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
        first, cut = self._first_found(), self._first_open()
        if first is not None and first <= cut:  # else a longer one, which begins before it, may still be coming
            return self._ended_at(first)
        out, self._held = self._held[:cut], self._held[cut:]
        return out

    def end(self) -> str:
        """The text that waited for the rest of a stop sequence, when no more comes."""
        first = self._first_found()
        if first is not None:
            return self._ended_at(first)
        out, self._held = self._held, ""
        return out

    def _ended_at(self, place: int) -> str:
        self.is_found = True
        out, self._held = self._held[:place], ""
        return out

    def _first_found(self) -> int | None:
        """The first place of the held text at which a whole stop sequence begins."""
        return min((place for each in self._sequences if (place := self._held.find(each)) >= 0), default=None)

    def _first_open(self) -> int:
        """The first place from which the held text is the beginning of a stop sequence, and not all of it."""
        longest = max(map(len, self._sequences))
        for place in range(max(0, len(self._held) - longest + 1), len(self._held)):
            rest = self._held[place:]
            if any(len(one) > len(rest) and one.startswith(rest) for one in self._sequences):
                return place
        return len(self._held)
