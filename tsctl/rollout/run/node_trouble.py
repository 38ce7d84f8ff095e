"""What nodes do to a rollout besides answering: they are unavailable, come back, or have too few workers for a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tsctl.config.weights import TOTAL, percent
from tsctl.errors import TsctlError
from tsctl.rollout.decide.state import State
from tsctl.rollout.decide.windows import Window
from tsctl.rollout.run.interfaces import EvidenceReader, Health, TemporarilyUnavailable

#: A node that comes back may need this long until all workers have loaded again.
RECOVERY_S = 60.0


@dataclass
class NodeTrouble:
    """When a node was last seen to be unavailable.

    Args:
        clock: monotonic seconds.
        seen_at: by that clock; None: never.
    """

    health: Health
    clock: Callable[[], float]
    seen_at: float | None = None

    def trouble(self, state: State, is_fresh: bool = False) -> str:
        """As of `Health`."""
        trouble = self.health.trouble(state, is_fresh)
        if trouble:
            self.seen_at = self.clock()
        return trouble

    def are_disturbed(self, state: State, windows: Sequence[Window]) -> bool:
        """Whether requests may be unanswered because a node is unavailable, or its workers load after it was."""
        if any(window.stable.unanswered or window.canary.unanswered for window in windows):
            try:
                self.trouble(state, is_fresh=True)
            except TsctlError:  # a node that cannot be asked is as good as gone
                self.seen_at = self.clock()
        return self.seen_at is not None and self.clock() - self.seen_at < RECOVERY_S


def require_capacity(state: State, health: Health, evidence: EvidenceReader) -> None:
    """Raises TemporarilyUnavailable where the step's share of the requests is too much for the canary's workers."""
    capacity = health.capacity(state)
    if capacity is None:
        return
    share = evidence.request_rate(state) * state.weight / TOTAL / capacity  # the utilisation law
    if share > state.policy.max_utilisation:
        raise TemporarilyUnavailable(
            f"{percent(state.weight)} of the requests would take {share:.0%} of the canary's workers, and the"
            f" policy allows {state.policy.max_utilisation:.0%}; add workers with 'tsctl models scale'"
        )
