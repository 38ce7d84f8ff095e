"""Follows the shadows in force: each reading compares the pairs that came since the last one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tsctl.archive.asked import Asker
from tsctl.archive.comparator import comparator_in_store
from tsctl.config.deployment import DeploymentSpec
from tsctl.config.project import Project
from tsctl.gateway.state import open_gateway, traffic_in_force
from tsctl.nodes.engines import open_nodes
from tsctl.records.pairs import WAIT_S, Versions, read_pairs
from tsctl.records.places import places_of
from tsctl.shadow.disagreement import Disagreement, Repeat, observe
from tsctl.shadow.pairing import paired_share
from tsctl.shadow.report import Paired
from tsctl.shadow.summaries import SummaryComparator

#: The rates are those of so many seconds; records are read again after so many.
WINDOW_S, READ_S = 3600.0, 15.0
#: Where a model embeds texts: a reading has the pairs of so many seconds.
EMBED_READ_S = 60.0


@dataclass(frozen=True)
class Part:
    """The pairs of one reading."""

    until_s: float
    pairs: int
    differing: int
    repeats: int  # second answers of stable
    repeats_differing: int
    copied: int  # requests with a pair, or with an answer that was lost


@dataclass(frozen=True)
class FollowedShadow:
    """One shadow as it is now; a rate is None where nothing was compared in the last WINDOW_S."""

    model: str
    version: str
    pairs: int  # since it is followed
    disagreement: float | None
    noise: float | None
    paired: float | None


@dataclass
class _Shadow:
    versions: Versions
    until_s: float
    pairs: int = 0
    parts: deque[Part] = field(default_factory=deque)

    def add(self, part: Part) -> None:
        self.until_s, self.pairs = part.until_s, self.pairs + part.pairs
        self.parts.append(part)
        while self.parts[0].until_s < part.until_s - WINDOW_S:
            self.parts.popleft()

    @property
    def now(self) -> FollowedShadow:
        def share(count: Callable[[Part], int], of: Callable[[Part], int]) -> float | None:
            total = sum(map(of, self.parts))
            return sum(map(count, self.parts)) / total if total else None

        return FollowedShadow(
            self.versions.model,
            self.versions.shadow,
            self.pairs,
            share(lambda part: part.differing, lambda part: part.pairs),
            share(lambda part: part.repeats_differing, lambda part: part.repeats),
            share(lambda part: part.pairs, lambda part: part.copied),
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
            yield shadow.now

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
    share = paired_share(evidence.pairs, paired.unpaired)
    copied = round(evidence.pairs / share) if share else sum(paired.unpaired.values())
    repeats = sum(int(evidence.floors[kind].pairs) for kind in Repeat)
    noisy = sum(evidence.repeats_differing.values())
    return Part(until_s, evidence.pairs, evidence.differing, repeats, noisy, copied)
