"""Growth is described by what its points say: power laws, bends, what one more costs; and drawn as the docs show it."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import ARCHIVES, CHECKOUT
from benchmarks.growth import batch, nodes, page
from benchmarks.growth.curves import Collected, Growth, growths_of, plots_of
from benchmarks.growth.draw import draw
from benchmarks.growth.fit import bend, line, power_law
from benchmarks.growth.table import fit_rows, point_columns, point_rows
from benchmarks.harness.figures import Turn
from tsctl.config.archive import read_archive_spec
from tsctl.errors import SpecError

NUMBERS = (1, 2, 5, 10, 20, 50, 100, 200, 500)


def curve(*values: float) -> list[tuple[float, float]]:
    return list(zip(NUMBERS, values, strict=False))


@given(slope=st.floats(-2, 3), factor=st.floats(0.01, 1000))
def test_a_power_law_is_found_again(slope: float, factor: float) -> None:
    found = power_law([(x, factor * x**slope) for x in NUMBERS])
    assert found is not None
    assert found.slope.value == pytest.approx(slope, abs=1e-6)
    assert found.slope.low <= found.slope.value <= found.slope.high
    assert found.at(7) == pytest.approx(factor * 7**slope)


def test_the_interval_of_a_slope_holds_what_chance_moved() -> None:
    found = power_law([(x, x * (1.1 if place % 2 else 0.9)) for place, x in enumerate(NUMBERS)])
    assert found is not None
    assert 0.8 < found.slope.low < 1 < found.slope.high < 1.2


def test_too_few_points_follow_nothing() -> None:
    assert power_law(curve(1, 2)) is None
    assert line(curve(1, 2)) is None
    assert bend(curve(1, 1, 1, 10, 100)) is None
    assert power_law(curve(0, 0, 0, 0)) is None


def test_a_fixed_cost_with_a_cost_for_each_bends_where_they_are_equal() -> None:
    places = [(x, 20 + x) for x in NUMBERS]
    found, straight = bend(places), line(places)
    assert found is not None and straight is not None
    assert 10 <= found.at <= 50
    assert found.before < 0.4 and 0.7 < found.after <= 1.05
    assert straight.fixed.value == pytest.approx(20) and straight.each.value == pytest.approx(1)
    assert straight.at(1000) == pytest.approx(1020)


def test_a_curve_that_becomes_quadratic_bends_there() -> None:
    found = bend([(x, 10 * x if x <= 50 else 10 * x * x / 50) for x in NUMBERS])
    assert found is not None
    assert (found.at, found.before, found.after) == pytest.approx((50, 1, 2))


def test_a_power_law_with_noise_bends_nowhere() -> None:
    assert bend([(x, 3 * x * math.exp(0.05 * (-1) ** place)) for place, x in enumerate(NUMBERS)]) is None


def growth() -> Growth:
    found = Collected()
    for _ in range(2):
        for x in NUMBERS:
            found.add("time of a change", "s", x, {"weights are in force": 0.1 + 0.004 * x, "<status>": 0.5})
            found.add("requests/s", "requests/s", x, {"answered": 0})
    found.add("time of a change", "s", 500, {"<status>": 0.6})
    return Growth(
        "versions", "many versions", {"a": 1}, {}, nodes.figures(TURNS), ("a note",), "versions", found.curves()
    )


def turn(requests_s: float, failed: int = 0) -> Turn:
    return Turn(requests_s, 1.0, 2.0, failed, {"gateway": 40.0})


TURNS = {1: [turn(100), turn(50)], 2: [turn(190), turn(101)], 3: [turn(240), turn(120)]}


def test_goodput_of_nodes_is_that_of_as_many_single_ones_in_the_same_round() -> None:
    two, three, *_ = nodes.figures(TURNS)
    assert (two.rounds, two.is_reached) == ((0.95, 1.01), True)
    assert three.rounds == pytest.approx((0.8, 0.8)) and three.is_reached is False
    assert nodes.figures({1: [turn(100)], 2: [turn(200, failed=1)]})[0].is_reached is False


def test_a_run_is_read_back_from_its_json() -> None:
    [again] = growths_of({"workloads": [growth().as_json()]})
    assert again == growth()
    assert [curve.name for curve in plots_of(again)["time of a change"]] == ["weights are in force", "<status>"]


def test_tables_have_a_row_for_each_number_and_for_each_curve() -> None:
    columns, rows = point_columns(growth()), point_rows(growth())
    assert columns == ["versions", "weights are in force, s", "<status>, s", "answered, requests/s"]
    assert rows[0] == ["1", "0.104", "0.5", "0"]
    assert len(rows) == len(NUMBERS)
    weights, status, none = fit_rows([growth()])
    assert weights[:5] == ["versions", "weights are in force", "s", "0.104", "2.1"]
    assert weights[6] is not None and weights[7] == "0.004 (0.004 to 0.004)"
    assert status[6] is None and none[5:] == [None, None, None]


def test_a_plot_is_svg_with_its_words_as_text() -> None:
    curves = plots_of(growth())["time of a change"]
    drawn = ElementTree.fromstring(draw("time & change", "versions", curves))  # noqa: S314 - our own
    words = [text.text or "" for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert "time & change, s" in words and "versions" in words
    assert any(text.startswith("<status>: 0.5 to 0.5 s, slope") for text in words)
    assert len(list(drawn.iter("{http://www.w3.org/2000/svg}path"))) > 10


def test_values_that_are_no_more_than_zero_have_no_place_in_a_plot() -> None:
    with pytest.raises(ValueError):
        draw("nothing", "versions", plots_of(growth())["requests/s"])


def test_versions_of_a_batch_are_an_archive_that_can_be_built(tmp_path: Path) -> None:
    batch.write_archive_of(ARCHIVES / batch.MODEL, tmp_path / "linear")
    spec = read_archive_spec(tmp_path / "linear" / "archive.yaml")
    assert [spec.serving(batch.version_of(size)).batch.size for size in batch.SIZES] == list(batch.SIZES)


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(SpecError, match="lacks"):
        page.page("# Benchmarks\n", {"workloads": []})
    with pytest.raises(SpecError, match="is no JSON of a run"):
        page.read(Path("/nowhere/growth.json"))


def test_an_axis_of_a_later_run_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    first, later = tmp_path / "first.json", tmp_path / "later.json"
    old, new = ({"commit": commit, "load_before": load} for commit, load in (("a", 0.5), ("b", 2.0)))
    first.write_text(json.dumps({"machine": old, "workloads": [{"key": "keys"}, {"key": "nodes"}]}))
    later.write_text(json.dumps({"machine": new, "workloads": [{"key": "keys"}]}))
    read = page.read(first, later)
    keys, nodes_axis = {"commit": "b", "load": 2.0, "key": "keys"}, {"commit": "a", "load": 0.5, "key": "nodes"}
    assert read == {"machine": old, "workloads": [keys, nodes_axis]}
    first.write_text(json.dumps(read))
    assert page.read(first) == read, "what the docs keep is read again as it is"


def test_the_docs_show_the_last_run() -> None:
    docs = CHECKOUT / "docs"
    document = page.read(docs / page.DOCUMENT)
    drawn = page.files(document)
    assert {f"{page.PLOTS}/{path.name}" for path in (docs / page.PLOTS).glob("*.svg")} == drawn.keys()
    for name, content in drawn.items():
        assert (docs / name).read_text(encoding="utf-8") == content, f"run: python -m benchmarks growth --draw {name}"
    text = (docs / page.PAGE).read_text(encoding="utf-8")
    assert page.page(text, document) == text
