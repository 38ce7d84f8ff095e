"""Renders axes of growth as tables: the points, and what each curve follows. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.growth.curves import Curve, Growth
from benchmarks.growth.fit import Estimate, bend, line, power_law

FIT_COLUMNS = ("axis", "measure", "unit", "first", "last", "slope", "bends", "one more")


def point_columns(growth: Growth) -> list[str]:
    return [growth.x, *(f"{curve.name}, {curve.unit}" for curve in growth.curves)]


def point_rows(growth: Growth) -> list[list[str | None]]:
    """A row for each number, with the median of each curve there; None where it was not measured."""
    numbers = sorted({point.x for curve in growth.curves for point in curve.points})
    values = [dict(curve.places) for curve in growth.curves]
    return [[number(x), *(number(of[x]) if x in of else None for of in values)] for x in numbers]


def fit_rows(growths: Sequence[Growth]) -> list[list[str | None]]:
    """A row of FIT_COLUMNS for each curve."""
    return [_fit_row(growth, curve) for growth in growths for curve in growth.curves]


def number(value: float) -> str:
    """Three digits of it, as a person writes them."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 else f"{value:.1e}"


def slope_text(curve: Curve) -> str | None:
    """The slope of the power law with its interval; None where there are too few points."""
    law = power_law(curve.places)
    return None if law is None else f"{law.slope.value:.2f} ({law.slope.low:.2f} to {law.slope.high:.2f})"


def bend_text(curve: Curve) -> str | None:
    """Where the curve bends; None where it does not."""
    found = bend(curve.places)
    return None if found is None else f"at {number(found.at)}: {found.before:.2f} to {found.after:.2f}"


def each_text(curve: Curve) -> str | None:
    """What one more costs, with its interval; None where that may be nothing, or the curve falls."""
    fitted = line(curve.places)
    return None if fitted is None or fitted.each.low <= 0 else _interval(fitted.each)


def _interval(estimate: Estimate) -> str:
    return f"{number(estimate.value)} ({number(estimate.low)} to {number(estimate.high)})"


def _fit_row(growth: Growth, curve: Curve) -> list[str | None]:
    first, last = curve.points[0], curve.points[-1]
    return [
        growth.key, curve.name, curve.unit, number(first.value), number(last.value), slope_text(curve),
        bend_text(curve), each_text(curve),
    ]  # fmt: skip
