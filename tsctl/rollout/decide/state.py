"""The state of a rollout. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tsctl.config.policy import RolloutPolicy
from tsctl.rollout.decide.events import Cursor, Effect, Outcome
from tsctl.rollout.decide.evidence import Evidence
from tsctl.rollout.decide.interventions import Command
from tsctl.rollout.decide.judge import NOT_RECORDED, Judgement, Verdict, judge
from tsctl.rollout.decide.shadow import judge_shadow
from tsctl.rollout.decide.windows import UNKNOWN, Thresholds
from tsctl.shadow.disagreement import Disagreement

#: Where comparing pairs goes on: microseconds since 1970.
SHADOW_CURSOR = "shadow|us"


@dataclass(frozen=True)
class State:
    """One rollout.

    Args:
        weights: of the canary, of the steps that are left under the present policy.
        step: the place of the present step in `weights`; -1 before the first one.
        weight: of the canary as the journal has decided it, in hundredths of a percent; in force once `is_weighed`.
        in_force: the last weight that is known to have been in force.
        had_weight: whether a weight was ever tried, so that requests may have reached the canary.
        held_s: how long the present step was watched; time without evidence does not count.
        waited_s: since the present step began to be watched, with the time for which it had to wait.
        thresholds: from which times on an answer is slow; `before`: earlier ones, each with the cursor up to which
            evidence was read with them.
        is_text: the model's answers are texts of a language model.
        sticky: what tells users on the route; empty: single requests are assigned.
        since: where evidence of the present assignment begins.
        warm_bytes: memory of each worker of the canary when it was warm.
        requests_per_s: capacity of all workers of the canary together, as measured before the first step.
        measured_workers: READY workers at that measurement; 0 where the journal has no number.
        verdict: on the present step; a fail is a verdict on the rollout.
        waits_for: why it waits; empty where it does not.
        nodes: on which the canary is registered; `joined` since then, and not covered yet.
        elsewhere: that serve stable, where those are others; empty: stable is on `nodes`.
        is_disturbed: as of the last tick.
        doing: an effect that was begun, and is not known to be done.
        command: abort, rollback or promote, by a person.
        recorded: the judgement in the journal, of the last verdict or of the end.
        is_copied: whether the canary may get copies of requests.
        is_compared: whether the shadow stage has passed.
        pairs: of answers that were compared; `unpaired`: lost answers by reason.
    """

    id: str
    model: str
    canary: str
    stable: str
    archive: str
    policy: RolloutPolicy
    classes: tuple[str, ...]
    evidence: Evidence
    weights: tuple[int, ...]
    started_at: float
    nodes: tuple[str, ...] = ()
    joined: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()
    done: frozenset[Effect] = frozenset()
    step: int = -1
    weight: int = 0
    in_force: int = 0
    is_weighed: bool = False
    had_weight: bool = False
    held_s: float = 0.0
    waited_s: float = 0.0
    step_requests: int = 0
    thresholds: Thresholds = UNKNOWN
    before: tuple[tuple[Cursor, Thresholds], ...] = ()
    is_text: bool = False
    sticky: str = ""
    since: Cursor = field(default_factory=dict)
    cursor: Cursor = field(default_factory=dict)
    warm_bytes: Mapping[str, int] = field(default_factory=dict)
    requests_per_s: float | None = None
    measured_workers: int = 0
    verdict: Verdict | None = None
    why: str = ""
    signal: str = ""
    is_paused: bool = False
    is_disturbed: bool = False
    waits_for: str = ""
    doing: Effect | None = None
    command: Command | None = None
    commanded_by: str = ""
    recorded: Judgement | None = None
    is_copied: bool = False
    is_compared: bool = False
    pairs: Disagreement = field(default_factory=Disagreement)
    unpaired: Mapping[str, int] = field(default_factory=dict)
    outcome: Outcome | None = None
    ended_at: float | None = None

    @property
    def stable_nodes(self) -> tuple[str, ...]:
        """The nodes that serve stable."""
        return self.elsewhere or self.nodes

    @property
    def settle_s(self) -> float:
        """Hold time of a step after which times and texts count; half of the hold time where answers take longer."""
        return max(self.policy.settle_s, min(self.thresholds.longest_s or 0.0, self.policy.hold_s / 2))

    @property
    def is_failed(self) -> bool:
        return self.verdict is Verdict.FAIL

    @property
    def is_going_back(self) -> bool:
        """Whether stable gets all requests again, by a verdict or a command."""
        return self.is_failed or self.command in (Command.ABORT, Command.ROLLBACK)

    @property
    def is_rejected(self) -> bool:
        """Whether the canary failed before its first request."""
        return self.is_failed and not self.had_weight

    @property
    def is_in_shadow_stage(self) -> bool:
        """Whether the canary is judged by its answers to copies, before the first step."""
        is_before = self.step < 0 and not self.had_weight and not self.is_compared
        return self.policy.shadow is not None and is_before and self.command is not Command.PROMOTE

    @property
    def judgement(self) -> Judgement:
        """The judgement on the present step; once the rollout has ended, the recorded one, never a new one."""
        if self.outcome is not None:
            return self.recorded or NOT_RECORDED
        if self.is_in_shadow_stage and Effect.COPY in self.done:
            return judge_shadow(self.policy, self.pairs, self.unpaired)
        return judge(self.policy, self.evidence, self.held_s, self.step_requests)

    @property
    def unwatched(self) -> State:
        """With a step that has not been watched yet."""
        return replace(self, is_weighed=False, held_s=0.0, waited_s=0.0, step_requests=0, verdict=None, recorded=None)
