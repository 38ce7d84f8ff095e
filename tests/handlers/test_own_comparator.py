"""A handler compares answers in its own way, in the sandbox; one that cannot is refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.handlers.test_archive_verify import failures, make
from tsctl.archive.asked import MOST_PAIRS, Asker
from tsctl.archive.build import build_version
from tsctl.archive.comparator import comparator_in_store
from tsctl.archive.verify import verify
from tsctl.config.archive import read_archive_spec
from tsctl.config.project import Project
from tsctl.errors import AnalysisError, ArchiveError
from tsctl.shadow.comparators import Comparison
from tsctl.shadow.pairing import Answer, Track
from tsctl.shadow.summaries import CompareOptions, Summary, SummaryComparator

#: In place of a line of the toy's `postprocess`; the method comes after it.
COMPARE = """    def compare(self, stable, other):
        {body}
"""
RIGHT = "return abs(stable['y'] - other['y']) / self.settings['unit']"


def built(root: Path, body: str | None, compare: dict[str, Any] | None = None) -> Project:
    """A project with the toy, whose handler has this `compare`; None: it has none."""
    project = make(root)
    folder = project.archives / "toy"
    if body is not None:
        with (folder / "handler.py").open("a") as file:
            file.write("\n" + COMPARE.format(body=body))
    path = folder / "archive.yaml"
    options = compare or {"by": "handler", "most": 2.0}
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "compare": options, "settings": {"unit": 4}}))
    build_version(project, folder, read_archive_spec(path), "1.0", lambda _: None)
    return project


def answer(value: Any, status: int = 200, is_whole: bool = True) -> Answer:
    summary = Summary(answer={"y": value}, is_whole=is_whole) if is_whole else Summary(answer_digest=str(value))
    return Answer("id", Track.STABLE, summary, status)


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return built(tmp_path_factory.mktemp("right"), RIGHT)


def test_the_distance_is_the_handlers_and_most_decides(right: Project) -> None:
    comparator = comparator_in_store(right, "toy", "1.0")
    pairs = [(answer(1), answer(3)), (answer(1), answer(21)), (answer(1), answer(1)), (answer(1, 500), answer(2))]
    ready = Asker(right).ready(comparator, pairs)
    assert len(ready.distances) == 2, "equal answers and errors are not asked about"
    near, far, same = (ready(stable.value, other.value) for stable, other in pairs[:3])
    assert near == Comparison(False, 0.5)
    assert far == Comparison(True, 5.0, "a distance of 5, at most 2 is allowed")
    assert same == Comparison(False)
    assert Asker(right).ready(comparator, pairs[2:]) == comparator, "nothing was asked"


def test_a_command_names_it_too(right: Project) -> None:
    by_label = comparator_in_store(right, "toy", "1.0")
    chosen = SummaryComparator(CompareOptions(by="handler"), archive=by_label.archive)
    pair = (answer(0), answer(4))
    ready = Asker(right).ready(chosen, [pair])
    assert ready(pair[0].value, pair[1].value).distance == 1.0
    assert failures(verify(next(right.published.glob("toy-1.0-*.mar")))) == {}


def test_what_cannot_be_asked_is_refused(right: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    asker, comparator = Asker(right), comparator_in_store(right, "toy", "1.0")
    with pytest.raises(ArchiveError, match="the store has no archive whose handler could compare the answers"):
        asker.ready(SummaryComparator(CompareOptions(by="handler")), [(answer(1), answer(2))])
    with pytest.raises(ArchiveError, match=r"toy 1\.0 cannot compare answers: the handler's `compare` failed: Type"):
        asker.ready(comparator, [(answer(1), answer("two"))])
    pairs = [(answer(number), answer(-1)) for number in range(3)]
    monkeypatch.setattr("tsctl.archive.asked.MOST_PAIRS", 2)
    with pytest.raises(AnalysisError, match="3 pairs differ, and a handler compares 2 at most"):
        asker.ready(comparator, pairs)
    assert MOST_PAIRS > 1000


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (None, "and the handler has no method `compare`"),
        ("return 1.0", "finds a golden answer 1 from itself; it must return 0"),
        ("return None", "returned None; it must return a number, 0 or more"),
        ("return float('nan')", "returned nan"),
        ("return True", "returned True"),
        ("raise ValueError('no')", "`compare` failed: ValueError: no"),
    ],
)
def test_an_archive_whose_handler_compares_wrongly_does_not_load(tmp_path: Path, body: str | None, reason: str) -> None:
    project = built(tmp_path, body)
    [check] = failures(verify(next(project.published.glob("toy-1.0-*.mar")))).values()
    assert reason in check


def test_a_share_above_one_is_a_distance_of_handlers_alone(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"most \(2\) is a share, and must be at most 1"):
        built(tmp_path, None, {"by": "text", "most": 2.0})
