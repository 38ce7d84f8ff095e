"""Reads the labelled items of a rollout: labels that people added, of requests that both versions recorded.

Only requests whose version was chosen by weight count: those of testers, and of clients that name a version, were not
assigned at random.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tsctl.records.database import Place
from tsctl.records.labels import label_files, labelled_items
from tsctl.rollout.decide.labels import LabelCounts, count_labelled
from tsctl.rollout.decide.state import State

#: Labels whose records come later, from another machine, are looked for this often.
AGAIN_S = 30.0


@dataclass
class LabelReader:
    """Labels of one rollout.

    Args:
        folder: of labels.
        places: of records now; asked at each reading, because nodes come and go.
    """

    folder: Path
    places: Callable[[], Sequence[Place]]
    clock: Callable[[], float] = time.monotonic
    _files: tuple[str, ...] = field(default=(), init=False)  # as read last
    _read_at: float | None = field(default=None, init=False)

    def read(self, state: State) -> LabelCounts | None:
        """All labelled items since the rollout began; None where the state has them, or none are judged.

        Raises:
            AnalysisError: records or labels cannot be read now.
            SpecError: DuckDB is not installed.
        """
        if "labels" not in state.policy.signals or state.sticky:
            return None
        files = label_files(self.folder)
        is_old = self._read_at is None or self.clock() - self._read_at >= AGAIN_S
        if not files or (files == self._files and not is_old):
            return None
        items = labelled_items(files, self.places(), state.model, (state.stable, state.canary), state.started_at)
        self._files, self._read_at = files, self.clock()
        counts = count_labelled((item.version == state.canary, item.is_wrong) for item in items)
        return counts if counts != state.evidence.labels else None
