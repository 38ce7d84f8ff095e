"""A place in this process, for tests; the contract in tests/live/test_control_place.py holds for it as well."""

from __future__ import annotations

import threading

from tsctl.control.place import AlreadyThere, PlaceUnreachable, require_name, require_small


class MemoryPlace:
    """A place in this process; `is_away` makes it unreachable, and `loses` the answer of so many creations."""

    address = "memory"

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.is_away = False
        self.loses = 0
        self._one_at_a_time = threading.Lock()

    def create(self, name: str, content: bytes) -> None:
        require_name(name)
        require_small(name, content)
        self._ask()
        with self._one_at_a_time:
            if name in self.content:
                raise AlreadyThere(name)
            self.content[name] = content
        if self.loses:
            self.loses -= 1
            raise PlaceUnreachable("the answer was lost")

    def read(self, name: str) -> bytes | None:
        require_name(name)
        self._ask()
        return self.content.get(name)

    def names(self, prefix: str) -> list[str]:
        self._ask()
        return sorted(name for name in self.content if name.startswith(prefix))

    def delete(self, name: str) -> None:
        require_name(name)
        self._ask()
        self.content.pop(name, None)

    def _ask(self) -> None:
        if self.is_away:
            raise PlaceUnreachable("memory is away")
