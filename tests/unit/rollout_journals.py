"""Journals as a runner writes them, entry by entry and judged as they go, of rollouts that end in every way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tsctl.config.policy import RolloutPolicy
from tsctl.rollout.decide.events import Entry, Event, Started, Tick, VerdictReached
from tsctl.rollout.decide.fold import after, evidence_after
from tsctl.rollout.decide.judge import Verdict, log_e_values
from tsctl.rollout.decide.state import State
from tsctl.rollout.decide.stored import parse_event, to_json
from tsctl.rollout.decide.windows import OutcomeCounts, Window
from tsctl.rollout.run.journal import Journal

#: 2026-11-25 09:30:00 in Greenwich.
BEGIN = 1_795_599_000.0
POLICY = RolloutPolicy(steps=(10, 50, 100), hold_s=4, settle_s=1, min_requests=50, max_error_rate=0.2, tick_s=1)


def started(model: str, id: str = "x", policy: RolloutPolicy = POLICY) -> Started:
    """The first event of a rollout of version 2.0."""
    return Started(
        id, model, "2.0", "1.0", "ab" * 32, policy, f"{model}-2.0.mar", 1, ("local", "far"), policy.digest,
        ("cat", "dog"), by="ann@desk",
    )  # fmt: skip


def stored_and_read(window: Window) -> Window:
    """The window after it was written to a journal and read again."""
    tick = parse_event("tick", json.loads(json.dumps(to_json(Tick(1.0, (window,))))))
    assert isinstance(tick, Tick)
    return tick.windows[0]


class Writer:
    """One rollout of digits 2.0 against 1.0, whose clock moves when something is waited for."""

    def __init__(
        self, folder: Path, policy: RolloutPolicy = POLICY, begin: float = BEGIN, model: str = "digits"
    ) -> None:
        self.now = begin
        self.journal = Journal(folder / f"20261125T{int(begin - BEGIN):06d}Z-2.0.jsonl", lambda: self.now)
        self.state: State | None = None
        self.write(started(model, self.journal.id, policy))

    @property
    def entries(self) -> list[Entry]:
        return self.journal.entries

    @property
    def path(self) -> Path:
        return self.journal.path

    def tell(self, kind: str, **content: Any) -> None:
        """Write an event from its stored keys."""
        self.write(parse_event(kind, content))

    def write(self, event: Event) -> None:
        self.state = after(self.state, self.journal.append(event))

    def do(self, what: str, seconds: float = 1.0, **content: Any) -> None:
        self.tell("doing", what=what)
        self.now += seconds
        self.tell("done", what=what, **content)

    def prepare(self) -> None:
        for what, detail in (("verify", "9 checks"), ("register", "2 nodes"), ("prove", "3 answers on 2 nodes")):
            self.do(what, detail=detail)

    def begin(self, index: int) -> None:
        assert self.state
        self.tell("step", index=index, weight=self.state.weights[index], slow_ms=25.0, cursor={})
        self.do("weigh", 0.1, weight=self.state.weights[index])

    def tick(self, canary: OutcomeCounts, stable: OutcomeCounts, seconds: float = 1.0) -> None:
        assert self.state
        self.now += seconds
        window = Window(self.state.weight, stable, canary)
        log_e = log_e_values(self.state.policy, evidence_after(self.state, [window]))
        self.write(Tick(seconds, (window,), {"r|2.0": len(self.entries)}, log_e))

    def ticks(self, count: int, canary_errors: int = 0) -> None:
        """Seconds of a hundred requests each, of which one of stable is an error."""
        assert self.state
        share = self.state.weight // 100
        for _ in range(count):
            kept = 100 - share
            canary = OutcomeCounts(
                share, min(canary_errors, share), share // 20, {"cat": share // 2, "dog": share - share // 2}
            )
            self.tick(
                canary, OutcomeCounts(kept, min(1, kept), kept // 20, {"cat": kept // 2, "dog": kept - kept // 2})
            )

    def judge(self) -> Verdict:
        """What the judge says now is told, unless it is undecided."""
        assert self.state
        judgement = self.state.judgement
        if judgement.verdict is not Verdict.UNDECIDED:
            self.write(VerdictReached(judgement.verdict, judgement.why, judgement.signal, judgement))
        return judgement.verdict

    def pass_step(self, index: int) -> None:
        self.begin(index)
        self.ticks(6)
        assert self.judge() is Verdict.PASS

    def promote(self) -> None:
        self.do("default", detail="2 nodes")
        self.do("retire", detail="0.9 of 2 nodes")
        self.tell("ended", outcome="promoted", why="no signal counts against it")

    def back(self, outcome: str, why: str) -> None:
        self.do("back", 0.2)
        self.tell("ended", outcome=outcome, why=why)


def promoted(folder: Path, **given: Any) -> Writer:
    writer = Writer(folder, **given)
    writer.prepare()
    for index in range(3):
        writer.pass_step(index)
    writer.promote()
    return writer


def rolled_back(folder: Path, **given: Any) -> Writer:
    """Half of the canary's answers are errors at the second step."""
    writer = Writer(folder, **given)
    writer.prepare()
    writer.pass_step(0)
    writer.begin(1)
    while writer.judge() is Verdict.UNDECIDED:
        writer.ticks(1, canary_errors=25)
    assert writer.state
    writer.back("rolled back", writer.state.why)
    return writer


def aborted(folder: Path, **given: Any) -> Writer:
    writer = Writer(folder, **given)
    writer.prepare()
    writer.begin(0)
    writer.ticks(2)
    writer.tell("asked", what="pause", by="bob@desk")
    writer.ticks(1)
    writer.tell("asked", what="resume", by="bob@desk")
    writer.tell("asked", what="abort", by="bob@desk")
    writer.back("aborted", "")
    return writer


def with_outage(folder: Path, **given: Any) -> Writer:
    """The gateway is away for a quarter of a minute, and the runner is killed while it registers."""
    writer = Writer(folder, **given)
    writer.do("verify")
    writer.tell("doing", what="register")
    writer.now += 60
    writer.do("register")
    writer.do("prove")
    writer.begin(0)
    writer.ticks(2)
    for _ in range(3):
        writer.tell("waits", why="the gateway does not answer", waited_s=5.0)
        writer.now += 5
    writer.ticks(6)
    assert writer.judge() is Verdict.PASS
    return writer


def with_edited_policy(folder: Path, **given: Any) -> Writer:
    writer = Writer(folder, **given)
    writer.prepare()
    writer.pass_step(0)
    writer.begin(1)
    writer.ticks(2)
    policy = POLICY.model_copy(update={"alpha": 0.001, "steps": (10.0, 75.0, 100.0), "signals": ("errors", "slow")})
    writer.tell("policy", policy=policy.model_dump(mode="json"), policy_digest=policy.digest)
    for index in range(3):
        writer.pass_step(index)
    writer.promote()
    return writer


def promotion_rolled_back(folder: Path, **given: Any) -> Writer:
    """Promoted, and a person wants the old version back."""
    writer = promoted(folder, **given)
    writer.now += 3600
    writer.tell("reopened", by="bob@desk")
    writer.do("back")
    writer.do("undefault")
    writer.tell("ended", outcome="rolled back", why="no signal counts against it")
    return writer


def failed_to_load(folder: Path, **given: Any) -> Writer:
    """It never became ready, so that no request reached it."""
    writer = Writer(folder, **given)
    writer.do("verify")
    writer.tell("doing", what="register")
    writer.now += 30
    writer.tell("verdict", verdict="fail", why="2.0 <crashes> & burns on local", signal="register")
    writer.tell("ended", outcome="rolled back", why="2.0 <crashes> & burns on local")
    return writer


def late_slow(folder: Path, **given: Any) -> Writer:
    """Stable had too few answers when the step began; and a kind of entry that only a later version knows."""
    writer = Writer(folder, **given)
    writer.prepare()
    writer.tell("step", index=0, weight=1000, slow_ms=None, cursor={})
    writer.do("weigh", 0.1, weight=1000)
    writer.ticks(1)
    writer.tell("slow", slow_ms=50.0, cursor={})
    writer.tell("dreamt", of="sheep")
    writer.ticks(1)
    return writer


EVERY: tuple[Callable[..., Writer], ...] = (
    promoted, rolled_back, aborted, with_outage, with_edited_policy, promotion_rolled_back, failed_to_load, late_slow,
)  # fmt: skip
