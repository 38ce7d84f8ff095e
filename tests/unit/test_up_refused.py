"""What `tsctl up` leaves alone, without a node."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.rollout_journals import started
from tsctl.archive.store import archive_of
from tsctl.config.project import Project
from tsctl.deploy.up import require_no_rollout
from tsctl.errors import ConflictError
from tsctl.rollout.decide.events import Ended, Outcome
from tsctl.rollout.run.journal import Journal, folder


def test_the_bytes_of_a_model_stay_what_they_are_until_its_rollout_has_ended(tmp_path: Path) -> None:
    project = Project(tmp_path)
    archive = archive_of(project.store / "digits-2.0-0123456789ab.mar")
    require_no_rollout(project, archive)
    journal = Journal(folder(project, "digits") / "20261125T093000Z-2.0.jsonl")
    journal.append(started("digits"))
    with pytest.raises(ConflictError, match=r"20261125T093000Z-2\.0 of digits has not ended, so digits 2\.0"):
        require_no_rollout(project, archive)
    journal.append(Ended(Outcome.PROMOTED, ""))
    require_no_rollout(project, archive)
