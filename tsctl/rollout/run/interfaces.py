"""What a running rollout needs of the outside: effects, evidence, health and the operator, each live and as a fake."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from tsctl.config.policy import RolloutPolicy
from tsctl.control.lease import Forgotten, TakenOver
from tsctl.control.place import PlaceUnusable
from tsctl.errors import AnalysisError, ConflictError, NodeError, TsctlError
from tsctl.gateway.envoy.admin import NotAnswering
from tsctl.nodes.fan_out import is_unavailable
from tsctl.rollout.decide.events import Cursor, Effect, EffectDone
from tsctl.rollout.decide.interventions import Command
from tsctl.rollout.decide.labels import LabelCounts
from tsctl.rollout.decide.shadow import PairsCompared
from tsctl.rollout.decide.state import State
from tsctl.rollout.decide.windows import Thresholds, Window


class TemporarilyUnavailable(NodeError):
    """Something does not answer or cannot be done now, and may later; nothing is decided meanwhile."""


class Effects(Protocol):
    """Changes nodes and the gateway."""

    def apply(self, effect: Effect, state: State) -> EffectDone:
        """Apply an effect; the same one may be applied twice.

        Raises:
            TsctlError: something is unavailable, if it `may_succeed_later`; else the canary is at fault.
        """


class EvidenceReader(Protocol):
    """Reads counts and rates of requests; raises a TsctlError where they cannot be read now."""

    def thresholds(self, state: State) -> tuple[Thresholds, Cursor]:
        """From which times on answers are slow, by stable's recent answers, and where reading of slow ones begins.

        Those for which stable has too few answers are None.
        """

    def read(self, state: State) -> tuple[list[Window], Cursor]:
        """New windows since the state's cursor, and the changes of the cursor."""

    def labels(self, state: State) -> LabelCounts | None:
        """All labelled items since the rollout began; None where nothing is new, or labels are not judged."""

    def mark(self, state: State) -> Cursor:
        """Where evidence begins that is read from now on, by requests and by users."""

    def request_rate(self, state: State) -> float:
        """Requests per second that the canary would compute now, if it had all requests of the route."""


class PairReader(Protocol):
    """Compares a shadow's answers with stable's."""

    def read(self, state: State) -> PairsCompared | None:
        """The pairs since the state's cursor; None where the last reading was a moment ago.

        Raises:
            TsctlError: records cannot be read now, or their answers cannot be compared.
        """


class Health(Protocol):
    """Looks at nodes, workers and the gateway."""

    def capacity(self, state: State) -> float | None:
        """Requests per second that the canary's workers can answer now, above 0; None where that was not measured."""

    def memory(self, state: State) -> Mapping[str, int]:
        """Bytes of each worker of the canary, where they can be read."""

    def trouble(self, state: State, is_fresh: bool = False) -> str:
        """Why no step may pass now; empty where one may.

        Args:
            is_fresh: look now, also where that was done a moment ago.
        """

    def grace_s(self, state: State) -> float | None:
        """Seconds for which the canary may stay as it is: without a READY worker, while every node has stable READY.

        None where it has one, or where something else is unavailable.
        """

    def joined(self, state: State) -> tuple[str, ...]:
        """Nodes that serve stable now and did not when the rollout began, by name."""


class Operator(Protocol):
    """Reads commands of people, and deployment.yaml.

    Attributes:
        policy_error: why deployment.yaml says nothing about the model now; empty where it does.
    """

    @property
    def policy_error(self) -> str: ...

    def commands(self) -> list[tuple[Command, str]]:
        """Commands since `acknowledge`, each with the person who gave it."""

    def acknowledge(self) -> None:
        """Forget the commands, once they are in the journal."""

    def sticky(self, state: State) -> str:
        """What tells users on the route by deployment.yaml now; empty where single requests are assigned."""

    def policy(self, state: State) -> RolloutPolicy:
        """The policy of deployment.yaml now; the last one where it cannot be read, or does not name the model."""


def may_succeed_later(error: TsctlError) -> bool:
    """Whether the same call may succeed another time, without a change to the canary."""
    kinds = TemporarilyUnavailable | NotAnswering | AnalysisError | ConflictError | PlaceUnusable
    return (isinstance(error, kinds) or is_unavailable(error)) and not isinstance(error, TakenOver | Forgotten)
