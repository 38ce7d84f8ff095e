"""What a search found, as a document that is written to a file and shown. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tsctl.tune.choice import BUSY, Drift, Verdict, drift, frontier, others, verdict
from tsctl.tune.space import Settings, Space
from tsctl.tune.trials import Trial, complete, searched


@dataclass(frozen=True)
class Setting:
    """What was searched, and how."""

    model: str
    version: str
    digest: str
    source: str  # where the requests come from
    slo_p99_ms: float
    space: Space
    base_s: float  # of the shortest loads
    connections: int
    cache: str  # a sentence on remembered answers; empty where the archive remembers none
    machine: Mapping[str, Any] = field(default_factory=dict)

    @property
    def present(self) -> Settings:
        """The settings before the search."""
        return self.space.present


@dataclass(frozen=True)
class Tuned:
    """The whole search."""

    setting: Setting
    trials: Sequence[Trial]

    @property
    def verdict(self) -> Verdict:
        return verdict(self.trials, self.setting.present, self.setting.slo_p99_ms)

    @property
    def drift(self) -> Drift:
        return drift(self.trials)

    @property
    def frontier(self) -> list[Trial]:
        return frontier(self.trials)

    @property
    def counts(self) -> dict[str, int]:
        """Trials of the search by their state."""
        states = [trial.state for trial in searched(self.trials)]
        return {state: states.count(state) for state in ("complete", "pruned", "invalid")}

    @property
    def lines_of_limits(self) -> list[str]:
        """What limits the result, a sentence each."""
        setting = self.setting
        cores = setting.machine.get("cores")
        shared = f"{cores} cores that are shared with the client" if cores else "this machine"
        sentences = [
            f"This holds for {setting.model} {setting.version} with {setting.source}, on {shared}.",
            self.drift.sentence,
            *([setting.cache] if setting.cache else []),
        ]
        if (share := others(self.trials)) > BUSY:
            sentences.append(
                f"Other programs took {share:.0%} of the processors meanwhile, so figures are low and noisy: measure"
                " again on a quiet machine."
            )
        if len(complete(self.trials)) < 2:
            sentences.append("Fewer than two trials were measured to the end: allow more trials or minutes.")
        return sentences

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        found = self.verdict
        chosen = found.chosen
        space = {**asdict(self.setting.space), "points": self.setting.space.size}
        return {
            **{name: value for name, value in asdict(self.setting).items() if name != "space"},
            "space": space,
            "counts": self.counts,
            "verdict": {
                **asdict(found),
                "changes": {name: new for name, (new, _) in chosen.changes(self.setting.present).items()}
                if chosen
                else {},
            },
            "drift": {"repeats": self.drift.repeats, "most": self.drift.most},
            "others": others(self.trials),
            "frontier": [trial.as_json() for trial in self.frontier],
            "trials": [trial.as_json() for trial in self.trials],
        }
