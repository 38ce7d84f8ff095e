"""What is wrong, said once and not at every look, and said again when it is over."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field


@dataclass
class Notices:
    """The troubles that were said, by topic."""

    logger: logging.Logger
    _said: dict[str, str] = field(default_factory=dict)

    def trouble(self, topic: str, text: str, error: Exception | None = None) -> None:
        """Log the trouble unless it is the one that was said last; with `error`, also where it was raised."""
        if self._said.get(topic) != text:
            self.logger.error("%s: %s", topic, text, exc_info=error)
            self._said[topic] = text

    def over(self, topic: str) -> None:
        """The topic has no trouble now."""
        if self._said.pop(topic, None) is not None:
            self.logger.info("%s: it is over", topic)
