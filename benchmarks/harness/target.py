"""A target: one way of serving a model, whose load is measured. Each is started, asked at its address, and stopped."""

from __future__ import annotations

from typing import Protocol

from benchmarks.harness.client import Address


class Target(Protocol):
    """A server with a model."""

    @property
    def name(self) -> str: ...

    def start(self) -> Address:
        """Serve; requests to the address are answered when this returns.

        Raises:
            NodeError: it does not answer.
        """

    def pids(self) -> dict[str, list[int]]:
        """Its processes: `workers` run the model, `server` stands before them."""

    def stop(self) -> None:
        """End the processes that it started; does nothing where it does not run."""
