"""Follows the shadows in force: each reading compares the pairs that came since the last one."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tsctl.archive.asked import Asker
from tsctl.archive.comparator import comparator_in_store
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.policy import RolloutPolicy, ShadowStage
from tsctl.config.project import Project
from tsctl.gateway.state import open_gateway, traffic_in_force
from tsctl.nodes.engines import open_nodes
from tsctl.records.pairs import WAIT_S, Versions, read_pairs
from tsctl.records.places import places_of
from tsctl.rollout.decide.shadow import PairCounts, added, counts_of, unpaired_after
from tsctl.shadow.disagreement import Disagreement, observe
from tsctl.shadow.report import Paired, measured_floors
from tsctl.shadow.summaries import SummaryComparator

#: The rates are those of so many seconds; records are read again after so many.
WINDOW_S, READ_S = 3600.0, 15.0
#: Where a model embeds texts: a reading has the pairs of so many seconds.
EMBED_READ_S = 60.0


#: Evidence of more is cut off here.
MOST_EVIDENCE = 1000.0


@dataclass(frozen=True)
class Part:
    """The pairs of one reading."""

    until_s: float
    counts: PairCounts


@dataclass(frozen=True)
class FollowedShadow:
    """One shadow as it is now; a rate is None where nothing was compared in the last WINDOW_S.

    Args:
        noise: the larger noise floor; None where none was measured.
        evidence: e-value against "it disagrees at most `max_disagreement` above the noise floor", by 1 / alpha: at 1
            the verdict on these pairs is "too much"; MOST_EVIDENCE at most.
    """

    model: str
    version: str
    pairs: int  # since it is followed
    disagreement: float | None
    noise: float | None
    paired: float | None
    evidence: float | None


@dataclass
class _Shadow:
    versions: Versions
    until_s: float
    pairs: int = 0
    parts: deque[Part] = field(default_factory=deque)

    def add(self, part: Part) -> None:
        self.until_s, self.pairs = part.until_s, self.pairs + part.counts.pairs
        self.parts.append(part)
        while self.parts[0].until_s < part.until_s - WINDOW_S:
            self.parts.popleft()

    def now(self, policy: RolloutPolicy) -> FollowedShadow:
        """What the parts say, by the limit and the alpha of this policy."""
        evidence, unpaired = Disagreement(), dict[str, int]()
        for part in self.parts:
            evidence = added(evidence, part.counts)
            unpaired = unpaired_after(unpaired, part.counts)
        measured = measured_floors(evidence)
        floors = [measured.repeats_differing[kind] / p.pairs for kind, p in measured.floors.items() if p.pairs]
        log_e = measured.log_e_above((policy.shadow or ShadowStage()).max_disagreement)
        return FollowedShadow(
            self.versions.model,
            self.versions.shadow,
            self.pairs,
            evidence.differing / evidence.pairs if evidence.pairs else None,
            max(floors, default=None),
            PairCounts(evidence.pairs, unpaired=unpaired).paired_share,
            min(MOST_EVIDENCE, math.exp(min(log_e, 700.0)) * policy.alpha) if evidence.pairs else None,
        )


class FollowedShadows:
    """The shadows of a project's routes.

    Args:
        clock: seconds since 1970.
    """

    def __init__(self, project: Project, clock: Callable[[], float] = time.time) -> None:
        self._project = project
        self._clock = clock
        self._asker = Asker(project)
        self._shadows: dict[str, _Shadow] = {}

    def read(self, deployment: DeploymentSpec) -> Iterator[FollowedShadow]:
        """Each shadow in force, with the pairs that came until WAIT_S ago.

        Raises:
            TsctlError: the routes or the records cannot be read.
            NotComparable: the archive's comparator is none for its answers.
        """
        traffic = traffic_in_force(open_gateway(self._project, deployment)) if deployment.gateway else {}
        routes = {name: route for name, route in traffic.items() if route.shadow is not None}
        self._shadows = {name: shadow for name, shadow in self._shadows.items() if name in routes}
        until_s = self._clock() - WAIT_S
        for name, route in routes.items():
            versions = Versions(name, route.stable, route.shadow.version if route.shadow else "")
            shadow = self._shadows.get(name)
            if shadow is None or shadow.versions != versions:
                shadow = self._shadows[name] = _Shadow(versions, until_s - WINDOW_S)
            if until_s - shadow.until_s >= READ_S:
                self._read(shadow, deployment, until_s)
            yield shadow.now(deployment.policy(name))

    def _read(self, shadow: _Shadow, deployment: DeploymentSpec, until_s: float) -> None:
        """Add the pairs until then; where a model embeds texts, of the last EMBED_READ_S, and at most as often."""
        versions, since_s = shadow.versions, shadow.until_s
        target = deployment.models.get(versions.model)
        archive = target.archive(versions.stable) if target else versions.stable
        comparator = comparator_in_store(self._project, versions.model, archive)
        if comparator.asks:
            if until_s - since_s < EMBED_READ_S:
                return
            since_s = until_s - EMBED_READ_S
        # a shared place has records only after a push, when this period was read long ago
        places = places_of(open_nodes(self._project, deployment), None)
        reading = read_pairs(places, versions, since_s, until_s)
        comparator = self._asker.ready(comparator, reading.paired.compared)
        shadow.add(part_of(reading.paired, comparator, reading.until_s))


def part_of(paired: Paired, comparator: SummaryComparator, until_s: float) -> Part:
    """Compare the pairs of one reading.

    Raises:
        NotComparable: the comparator is none for stable's answers.
    """
    evidence = Disagreement()
    for request in paired.requests:
        evidence, _ = observe(evidence, request.pair, request.repeats, comparator)
    return Part(until_s, counts_of(evidence, paired.unpaired))
