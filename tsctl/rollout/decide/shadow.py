"""Judges the canary as a shadow, before the first step: by the pairs that the journal has counted. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import ceil

from tsctl.config.policy import RolloutPolicy, ShadowStage
from tsctl.rollout.decide.events import Cursor, Event
from tsctl.rollout.decide.judge import Judgement, Verdict
from tsctl.rollout.decide.readings import Reading, rate_of
from tsctl.shadow.disagreement import Disagreement, Repeat
from tsctl.shadow.pairing import Unpaired, paired_share
from tsctl.shadow.plan import pairs_to_find, pairs_to_pass
from tsctl.shadow.report import Verdict as Answer
from tsctl.shadow.report import judge as judge_pairs
from tsctl.shadow.report import measured_floors
from tsctl.statistics.differences import DifferenceProcess

DISAGREEMENT = "disagreement"
#: With a smaller share of pairs among the copied requests, the pairs are no sample of them.
LEAST_PAIRED = 0.95


@dataclass(frozen=True)
class FloorCounts:
    """Pairs of which stable answered again in one way.

    Args:
        shadow_only: only the shadow's answer differs from stable's first; `stable_only`: only stable's second does.
        same: both differ, or neither does.
        differing: stable's second answers that differ.
    """

    shadow_only: int = 0
    stable_only: int = 0
    same: int = 0
    differing: int = 0


@dataclass(frozen=True)
class PairCounts:
    """What was compared, in one reading or in all.

    Args:
        floors: by the name of a Repeat, such as ALONE; `unpaired`: by the name of an Unpaired.
    """

    pairs: int = 0
    differing: int = 0
    floors: Mapping[str, FloorCounts] = field(default_factory=dict)
    unpaired: Mapping[str, int] = field(default_factory=dict)

    @property
    def paired_share(self) -> float | None:
        """Pairs as a share of the copied requests; None before the first."""
        return paired_share(self.pairs, {Unpaired[name]: count for name, count in self.unpaired.items()})


def counts_of(evidence: Disagreement, unpaired: Mapping[Unpaired, int]) -> PairCounts:
    """The counts of one reading, as the journal stores them."""
    floors = {
        kind.name: FloorCounts(
            int(process.first), int(process.second), int(process.same), evidence.repeats_differing[kind]
        )
        for kind, process in evidence.floors.items()
        if process.pairs
    }
    return PairCounts(evidence.pairs, evidence.differing, floors, {why.name: n for why, n in unpaired.items() if n})


def added(evidence: Disagreement, counts: PairCounts) -> Disagreement:
    """The evidence after one more reading."""
    floors, noisy = dict(evidence.floors), dict(evidence.repeats_differing)
    for name, new in counts.floors.items():
        kind = Repeat[name]
        old = floors[kind]
        floors[kind] = DifferenceProcess(old.first + new.shadow_only, old.second + new.stable_only, old.same + new.same)
        noisy[kind] += new.differing
    return Disagreement(evidence.pairs + counts.pairs, evidence.differing + counts.differing, floors, noisy)


def unpaired_after(unpaired: Mapping[str, int], counts: PairCounts) -> dict[str, int]:
    """Lost answers by reason after one more reading."""
    names = [*unpaired, *(name for name in counts.unpaired if name not in unpaired)]
    return {name: unpaired.get(name, 0) + counts.unpaired.get(name, 0) for name in names}


def judge_shadow(policy: RolloutPolicy, evidence: Disagreement, unpaired: Mapping[str, int]) -> Judgement:
    """The verdict on the stage of this policy.

    Fail: the canary surely disagrees more than `max_disagreement` above stable's own noise. Pass: it surely disagrees
    less, there are `min_pairs`, and no more than a few copies were lost. Each with a probability of at most alpha to
    be wrong, ever; the steps have an alpha of their own.
    """
    stage = policy.shadow or ShadowStage()
    measured = measured_floors(evidence)
    kind, process = max(measured.floors.items(), key=lambda floor: floor[1].pairs)
    stable = rate_of(measured.repeats_differing[kind], int(process.pairs), policy.alpha)
    canary = rate_of(evidence.differing, evidence.pairs, policy.alpha)
    log_e = measured.log_e_above(stage.max_disagreement)
    reading = Reading(DISAGREEMENT, log_e, 1.0, stable, canary)
    counted = (
        f"{evidence.differing:,} of {evidence.pairs:,} pairs differ, and {stable.events:,} of {stable.requests:,}"
        " second answers of stable"
    )
    answer = judge_pairs(evidence, stage.max_disagreement, policy.alpha)
    undecided = Judgement(Verdict.UNDECIDED, counted, log_e, (reading,))
    if answer is Answer.TOO_MUCH:
        why = f"it disagrees with stable more than {stage.max_disagreement:.2%} above the noise floor: {counted}"
        return Judgement(Verdict.FAIL, why, log_e, (reading,), signal=DISAGREEMENT)
    if evidence.pairs and not process.pairs:
        return replace(undecided, why=f"{counted}: the noise floor is not measured yet")
    needed = max(_more(stage, policy.alpha, stable.events, evidence, process), stage.min_pairs - evidence.pairs)
    if answer is Answer.UNDECIDED or evidence.pairs < stage.min_pairs:
        return replace(undecided, why=f"{counted}; about {max(1, needed):,} more pairs", needed=max(1, needed))
    share = PairCounts(evidence.pairs, unpaired=unpaired).paired_share
    if share is not None and share < LEAST_PAIRED:
        why = f"only {share:.1%} of the copied requests have both answers, and {LEAST_PAIRED:.0%} are expected"
        return replace(undecided, why=why)
    why = f"it disagrees less than {stage.max_disagreement:.2%} above the noise floor: {counted}"
    return Judgement(Verdict.PASS, why, log_e, (reading,))


@lru_cache(64)  # a rollout asks several times for each reading
def _pairs_until_decided(rate: float, floor: float, limit: float, alpha: float) -> int | None:
    needed = pairs_to_find if rate - floor > limit else pairs_to_pass
    return needed(rate, floor, limit, alpha).median


def _more(stage: ShadowStage, alpha: float, noisy: int, evidence: Disagreement, process: DifferenceProcess) -> int:
    """Pairs until a decision if the rates stay; `min_pairs` where none is in sight."""
    if not process.pairs:
        return stage.min_pairs
    rate, floor = evidence.differing / evidence.pairs, noisy / process.pairs
    pairs = _pairs_until_decided(rate, floor, stage.max_disagreement, alpha)
    return stage.min_pairs if pairs is None else ceil(pairs - process.pairs)


@dataclass(frozen=True)
class PairsCompared(Event):
    """Answers of the canary, as a shadow, were compared with stable's.

    Args:
        counts: of this reading; the cursor says up to when it has the records.
        waited_s: length of the period.
        examples: ids of some requests whose answers differ.
    """

    kind = "pairs"
    counts: PairCounts
    cursor: Cursor = field(default_factory=dict)
    waited_s: float = 0.0
    examples: tuple[str, ...] = ()
