"""Tables, plots and the page of a comparison."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.comparisons import SETTING, engine, turn
from tsctl.compare.advice import advise
from tsctl.compare.load.figures import OverloadFigures
from tsctl.compare.result import Bare, Comparison, Measured
from tsctl.errors import AnalysisError
from tsctl.views.compare.figures import STYLES, bars, plots, style_of
from tsctl.views.compare.report import document, lines, render_report, write_report
from tsctl.views.compare.tables import cost_table, number, overload_table, speed_table
from tsctl.views.plot import amounts

OVERLOAD = OverloadFigures(
    capacity_s=8_000, offered_s=16_000, goodput_s=7_200, refused=800, bad_refusals=2, refusal_p99_ms=12.0,
    refusal_most_ms=math.inf, recovery_s=0.4,
)  # fmt: skip
COMPARISON = Comparison(
    SETTING,
    Bare((16_000.0, 15_000.0, 17_000.0), (0.2, 0.3, 0.1)),
    (
        engine("torchserve", *(turn(rate, p99=(5, 20, math.inf)) for rate in (4000, 4100, 3900))),
        engine("uvicorn", *(replace(turn(rate), overload=OVERLOAD) for rate in (8000, 8200, 7900))),
        Measured("<triton>", (), "not installed; run: tsctl engines install triton"),
    ),
)


def test_the_tables_have_medians_and_the_spread() -> None:
    speed = speed_table(COMPARISON)
    assert [name for name, _ in speed.headings] == [
        "engine", "requests/s", "spread", "of bare", "conns", "p50 closed", "p99 closed", "p99 at 50%", "p99 at 80%",
        "lone ms", "client",
    ]  # fmt: skip
    assert speed.rows == [
        ["torchserve", "4,000", "3,900-4,100", "25%", "64", "failed", "failed", "5.00", "20.0", "0.30", "20%"],
        ["uvicorn", "8,000", "7,900-8,200", "50%", "64", "8.00", "40.0", "5.00", "20.0", "0.30", "20%"],
    ]
    assert cost_table(COMPARISON).rows[1] == ["uvicorn", "2.00", "12.0", "2.01", "0.12", "300", "proportional"]


def test_an_overload_has_a_table_of_its_own() -> None:
    table = overload_table(COMPARISON)
    assert table is not None
    assert table.rows == [["uvicorn", "16,000", "7,200", "90%", "2,400", "6", "12.0", "failed", "0.40"]]
    assert overload_table(replace(COMPARISON, engines=COMPARISON.engines[:1])) is None


def test_the_plot_has_a_line_for_each_engine_and_the_limit() -> None:
    [plot] = plots(COMPARISON)
    assert [(line.name, line.style) for line in plot.lines] == [
        ("torchserve", "engine-0"), ("uvicorn", "engine-1"), ("limit", "threshold"),
    ]  # fmt: skip
    assert plot.lines[0].points == [(2000, math.log10(5)), (3200, math.log10(20))], "no closed loop"
    assert plot.x.high >= 6400
    assert plot.y.low <= math.log10(5)
    assert plot.lines[2].points == [(0.0, math.log10(50)), (plot.x.high, math.log10(50))]
    assert list(plots(replace(COMPARISON, engines=COMPARISON.engines[2:]))) == []


def test_the_bars_are_shares_of_the_bare_model() -> None:
    assert [(bar.name, bar.style, bar.text) for bar in bars(COMPARISON)] == [
        ("torchserve", "engine-0", "25%"), ("uvicorn", "engine-1", "50%"),
    ]  # fmt: skip
    assert [bar.share for bar in bars(COMPARISON)] == [0.25, 0.5]
    faster = replace(COMPARISON, bare=Bare((4000.0,), (0.1,)))
    assert [bar.share for bar in bars(faster)] == [0.5, 1.0]
    assert bars(replace(COMPARISON, bare=Bare(why_not="it did not load"))) == []
    assert style_of(STYLES) == style_of(0)


def test_an_engine_that_must_not_be_compared_is_marked_wherever_its_figures_are() -> None:
    wrong = replace(COMPARISON.engines[1], difference="digit-0.json: label: '1' in place of '0'")
    failed = replace(COMPARISON.engines[0], why_not="it ended in round 2")
    found = replace(COMPARISON, engines=(failed, wrong))
    titles = ["torchserve (failed)", "uvicorn (answers differ)"]
    assert [row[0] for row in speed_table(found).rows] == titles
    assert [row[0] for row in cost_table(found).rows] == titles
    overload = overload_table(found)
    assert overload is not None
    assert [row[0] for row in overload.rows] == titles[1:]
    assert [bar.name for bar in bars(found)] == titles
    [plot] = plots(found)
    assert [line.name for line in plot.lines] == [*titles, "limit"]


def test_the_page_escapes_what_it_shows_and_loads_nothing() -> None:
    page = render_report(COMPARISON, advise(COMPARISON))
    assert "Take uvicorn: it answers the most requests/s" in page
    assert "&lt;triton&gt;: not installed" in page
    assert "<triton>" not in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert 'class="engine-1"' in page
    assert 'class="engine-1-bar"' in page
    assert "path.engine-1 {" in page


def test_a_terminal_and_a_file_have_the_same(tmp_path: Path) -> None:
    advice = advise(COMPARISON)
    text = "\n".join(lines(COMPARISON, advice))
    assert "<triton>: not installed; run: tsctl engines install triton" in text
    assert advice.sentence in text
    assert "16,000 requests/s; a batch of one takes 0.20 ms" in text
    path = tmp_path / "new" / "digits.html"
    write_report(path, COMPARISON, advice)
    assert path.read_text() == render_report(COMPARISON, advice)
    written = json.loads(path.with_suffix(".json").read_text())
    assert written == json.loads(json.dumps(document(COMPARISON, advice)))
    assert written["advice"]["engines"] == ["uvicorn"]
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(AnalysisError, match="cannot be written: File exists"):
        write_report(blocked / "digits.html", COMPARISON, advice)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (math.nan, "-"), (math.inf, "failed"), (0.123, "0.12"), (12.34, "12.3"), (1234.5, "1,234")],
)
def test_a_number_has_as_many_digits_as_a_person_reads(value: float | None, text: str) -> None:
    assert number(value) == text


def test_an_axis_of_amounts_has_round_steps() -> None:
    assert amounts(8200).ticks == (
        (0.0, "0"),
        (2500.0, "2,500"),
        (5000.0, "5,000"),
        (7500.0, "7,500"),
        (10000.0, "10,000"),
    )
    assert amounts(0.5).high >= 0.5
