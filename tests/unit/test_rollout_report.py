"""The report of a rollout: one file that loads nothing, escapes everything and draws what was measured."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.rollout_journals import EVERY, Writer, failed_to_load, promoted, rolled_back, with_outage
from tsctl.errors import AnalysisError
from tsctl.rollout.run.journal_lines import read
from tsctl.views.html import render
from tsctl.views.plot import Axis, Line, Plot, percents, powers, times
from tsctl.views.rollout.report import render_report, write_report

#: Journals of the first format.
JOURNALS = Path(__file__).parent / "data" / "journals"
#: Elements without an end.
VOID = {"meta", "path", "rect", "br", "link", "img"}


class Page(HTMLParser):
    """Elements, attributes and text; every element must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("write", EVERY, ids=lambda write: write.__name__)
def test_a_page_needs_nothing_but_itself(write: Callable[[Path], Writer], tmp_path: Path) -> None:
    text = render_report(write(tmp_path).entries, UTC)
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name in ("src", "href", "srcset") or name.startswith("on")]
    assert "url(" not in text and "@import" not in text and "http:" not in text and "https:" not in text
    assert "default-src 'none'" in dict(page.attributes).values() or "default-src 'none'" in text


def test_what_comes_from_a_journal_is_escaped(tmp_path: Path) -> None:
    text = render_report(failed_to_load(tmp_path, model='<script>alert("digits")</script>').entries, UTC)
    assert "<script" not in text and "&lt;script&gt;alert(&#34;digits&#34;)" in text
    assert "2.0 &lt;crashes&gt; &amp; burns on local" in text


def test_the_page_says_what_was_decided_and_on_what(tmp_path: Path) -> None:
    page = Page(render_report(rolled_back(tmp_path).entries, UTC))
    for words in (
        "digits: 2.0 against 1.0",
        "digits 2.0 was rolled back, by errors",
        "2026-11-25 09:30:00 +00:00",
        "ann@desk",
        "Step 2 failed",
        "1 / alpha = 100",
        "max_error_rate",
        "ab" * 32,
    ):
        assert words in page.text, words
    assert page.tags.count("figure") == 5


def test_a_rollout_without_a_request_has_no_plots(tmp_path: Path) -> None:
    page = Page(render_report(failed_to_load(tmp_path).entries, UTC))
    assert "figure" not in page.tags and "Over time" not in page.text


def test_a_journal_without_a_recorded_judgement_says_so() -> None:
    entries = read(JOURNALS / "aborted.jsonl")
    assert "the journal records no judgement" in Page(render_report(entries, UTC)).text


def test_a_wait_is_shaded_in_every_plot(tmp_path: Path) -> None:
    text = render_report(with_outage(tmp_path).entries, UTC)
    assert text.count('<path class="span"') == 5 and "something was unavailable" in text


def test_every_class_that_is_drawn_has_a_colour(tmp_path: Path) -> None:
    text = render_report(rolled_back(tmp_path).entries, UTC)
    for style in set(re.findall(r'<(?:path|rect) class="([\w-]+)"', text)):
        assert f".{style} {{" in text or f".{style}," in text, style


def test_the_file_is_replaced_whole(tmp_path: Path) -> None:
    writer = promoted(tmp_path)
    path = tmp_path / "seen" / "report.html"
    write_report(path, writer.entries[:5])
    write_report(path, writer.entries)
    assert "was promoted" in path.read_text(encoding="utf-8")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(AnalysisError, match="taken cannot be written"):
        write_report(tmp_path / "taken", promoted(tmp_path).entries)
    with pytest.raises(AnalysisError, match="no entries yet"):
        write_report(tmp_path / "empty.html", [])


# ---- plots -----------------------------------------------------------------------------------------------------------

NUMBERS = st.floats(-1e12, 1e12, allow_nan=False)


@given(st.lists(st.tuples(NUMBERS, st.none() | NUMBERS), max_size=30), st.floats(1e-6, 1e12))
def test_nothing_is_drawn_outside_of_a_plot(points: list[tuple[float, float | None]], high: float) -> None:
    bands = [(at, value, value * 2) for at, value in points if value is not None]
    plot = Plot("<t>", "&", times(100), percents(high), [Line("l", "canary", points, band=bands)])
    drawn = render("figure.html", plot=plot)
    Page(drawn)
    (canvas,) = re.findall(r"preserveAspectRatio.*?</svg>", drawn, re.DOTALL)
    places = re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", "".join(re.findall(r' d="([^"]+)"', canvas)))
    assert all(0 <= float(x) <= plot.width and 0 <= float(y) <= plot.height for x, y in places)


@given(st.floats(1e-6, 1e12))
def test_a_linear_axis_has_few_round_values_and_holds_the_highest(high: float) -> None:
    axis = percents(high)
    assert axis.high >= high * 0.999 and 2 <= len(axis.ticks) <= 6
    assert axis.ticks[-1][0] == pytest.approx(axis.high)


@given(st.floats(-400, 400), st.floats(0, 400))
def test_an_axis_of_powers_writes_whole_ones(low: float, more: float) -> None:
    axis = powers(low, low + more)
    assert axis.low <= low and axis.high >= low + more and 2 <= len(axis.ticks) <= 7
    assert all(value == int(value) for value, _ in axis.ticks)


@given(st.floats(0, 30 * 86_400))
def test_an_axis_of_times_has_few_values(seconds: float) -> None:
    axis = times(seconds)
    assert 1 <= len(axis.ticks) <= 7 and axis.ticks[0] == (0, "0") and axis.ticks[-1][0] <= axis.high


@pytest.mark.parametrize(
    ("axis", "words"),
    [
        (percents(100), ["0%", "25%", "50%", "75%", "100%"]),
        (percents(5.7), ["0%", "2%", "4%", "6%"]),
        (powers(-2, 2.5), ["0.01", "0.1", "1", "10", "100", "1,000"]),
        (powers(-2, 19.5), ["0.01", "1,000", "10⁸", "10¹³", "10¹⁸"]),
        (times(610), ["0", "2 min", "4 min", "6 min", "8 min", "10 min"]),
        (times(50), ["0", "10 s", "20 s", "30 s", "40 s", "50 s"]),
    ],
)
def test_axes_are_written_as_people_read_them(axis: Axis, words: list[str]) -> None:
    assert [word for _, word in axis.ticks] == words


def test_a_line_breaks_where_nothing_is_known() -> None:
    points = [(0.0, 1.0), (1.0, None), (2.0, 1.0), (3.0, 2.0)]
    drawn = render("figure.html", plot=Plot("t", "", times(3), percents(4), [Line("l", "canary", points)]))
    assert drawn.count('<path class="canary" d="M') == 3, "one in the legend, two in the plot"
