"""The features of one record that may drift: numbers and categories of the input, and parts of the prediction. Pure.

Names: `input.` and the name in the record's `numbers` or `categories`; `prediction.` and label, score, text_length,
norm, `outputs.` and a name, or `sketch.` and a number. They are those of docs/records.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from tsctl.drift.reference import Reference, UnusableReference, category_reference, number_reference

INPUT, PREDICTION = "input.", "prediction."
#: Parts of names, each followed by the name of an output, or by the place in the sketch.
OUTPUTS, SKETCH = "outputs.", "sketch."
LABEL = f"{PREDICTION}label"
#: Columns of a record that are a feature each.
NUMBERS = ("score", "text_length", "norm")

#: Significant digits of a prediction's numbers: processors disagree in the later ones, and that is no drift.
DIGITS = 4
#: Smaller numbers stay as they are: what they would be multiplied by is no float.
SMALLEST = 1e-290

Values = dict[str, float | str]


def values_of(record: Mapping[str, Any]) -> Values:
    """The features of a record, as its line or a row has it; a feature without a value is left out.

    Outputs are a feature each, unless the only one is the score already. The norm says nothing that `scores` does not.
    """
    numbers, categories = record.get("numbers") or {}, record.get("categories") or {}
    found: Values = {f"{INPUT}{name}": value for name, value in {**categories, **numbers}.items() if value is not None}
    outputs, scores = record.get("outputs") or {}, record.get("scores")
    parts = {name: record.get(name) for name in NUMBERS if name != "norm" or scores is None}
    has_more = len(outputs) > 1 or parts["score"] is None
    parts |= {f"{OUTPUTS}{name}": value for name, value in outputs.items()} if has_more else {}
    parts |= {f"{SKETCH}{place}": value for place, value in enumerate(record.get("sketch") or ())}
    found |= {f"{PREDICTION}{name}": rounded(float(value)) for name, value in parts.items() if value is not None}
    if record.get("label") is not None:
        found[LABEL] = str(record["label"])
    return found


def rounded(value: float) -> float:
    """The number with DIGITS digits, as `round` of DuckDB gives it (tsctl/records/drift.py): halves away from zero."""
    if abs(value) < SMALLEST or not math.isfinite(value):
        return value
    places = DIGITS - 1 - math.floor(math.log10(abs(value)))
    scale = 10.0 ** abs(places)
    size = abs(value) * scale if places >= 0 else abs(value) / scale
    whole = math.floor(size + 0.5)
    return math.copysign(whole / scale if places >= 0 else whole * scale, value)


def references_of(items: Iterable[Values]) -> dict[str, Reference]:
    """The reference of each feature that an item has, by name; the items that lack it count as missing.

    Raises:
        UnusableReference: a feature has too few values, or is a number in one item and a category in another.
    """
    rows = list(items)
    references: dict[str, Reference] = {}
    for name in sorted({name for row in rows for name in row}):
        values = [row.get(name) for row in rows]
        kinds = {isinstance(value, str) for value in values if value is not None}
        if len(kinds) > 1:
            raise UnusableReference(f"{name} is a number in some items and a category in others")
        try:
            is_category = kinds.pop()
            references[name] = (
                category_reference(values)
                if is_category
                else number_reference(value for value in values if not isinstance(value, str))
            )
        except UnusableReference as error:
            raise UnusableReference(f"{name}: {error}") from None
    return references
