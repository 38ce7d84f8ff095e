"""Mistakes in a field that may be one of several things, `A | B`: reported once, at the field as the client wrote it.

Pydantic reports what is wrong with each alternative, at a place that ends with the alternative's own name, such as
`stop.list[constrained-str]`. A client knows no such names. Only the mistakes of the alternative that the client meant
are reported: a list that is too long is a list. Where the value is of another kind than each of them, all are named.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pydantic_core import ErrorDetails

_EXPECTED = "Input should be "
#: Mistakes of a value that is of another kind than the alternative.
_OTHER_KIND = frozenset(("is_instance_of", "none_required"))


class _Mistake(NamedTuple):
    number: int  # in the order of pydantic's
    entry: ErrorDetails
    place: tuple[tuple[int | str, bool], ...]  # each part, and whether it is the name of an alternative


def without_alternatives(entries: Sequence[ErrorDetails], sent: Any) -> list[ErrorDetails]:
    """The mistakes, with places that are all in what was sent, or missing in it.

    Args:
        sent: the value that was validated.
    """
    mistakes = [_Mistake(number, entry, _place(entry, sent)) for number, entry in enumerate(entries)]
    if not any(is_name for mistake in mistakes for _, is_name in mistake.place):
        return list(entries)
    chosen = sorted(_chosen(mistakes), key=lambda mistake: mistake.number)
    return [{**mistake.entry, "loc": tuple(part for part, _ in mistake.place)} for mistake in chosen]


def _place(entry: ErrorDetails, sent: Any) -> tuple[tuple[int | str, bool], ...]:
    """What leads to nothing in the value is the name of an alternative, unless the mistake is that it is missing."""
    place, value = list[tuple[int | str, bool]](), sent
    for number, part in enumerate(entry["loc"], 1):
        is_missing = number == len(entry["loc"]) and entry["type"] in ("missing", "missing_argument")
        if isinstance(value, dict) and (part in value or is_missing):
            value = value.get(part)
            place.append((part, False))
        elif isinstance(value, list | tuple) and isinstance(part, int) and part < len(value):
            value = value[part]
            place.append((part, False))
        else:
            place.append((part, True))
    return tuple(place)


def _chosen(mistakes: Sequence[_Mistake]) -> list[_Mistake]:
    """One alternative for each field that has several."""
    chosen = list[_Mistake]()
    fields = dict[tuple[Any, ...], dict[int | str, list[_Mistake]]]()  # mistakes of each alternative, by field
    for mistake in mistakes:
        first = next((number for number, (_, is_name) in enumerate(mistake.place) if is_name), None)
        if first is None:
            chosen.append(mistake)
            continue
        rest = mistake._replace(place=mistake.place[:first] + mistake.place[first + 1 :])
        fields.setdefault(mistake.place[:first], {}).setdefault(mistake.place[first][0], []).append(rest)
    for field, alternatives in fields.items():
        meant = [_chosen(each) for each in alternatives.values() if not all(_is_of_other_kind(m, field) for m in each)]
        if meant:  # that of the fewest mistakes, and of those the one which fits furthest
            nearest: list[_Mistake] = min(meant, key=_distance)
            chosen += nearest
        else:
            chosen.append(_of_no_kind(field, [each[0] for each in alternatives.values()]))
    return chosen


def _distance(mistakes: Sequence[_Mistake]) -> tuple[int, int]:
    return len(mistakes), -max(len(mistake.place) for mistake in mistakes)


def _is_of_other_kind(mistake: _Mistake, field: tuple[Any, ...]) -> bool:
    kind = mistake.entry["type"]
    return len(mistake.place) == len(field) and (kind.endswith("_type") or kind in _OTHER_KIND)


def _of_no_kind(field: tuple[Any, ...], mistakes: Sequence[_Mistake]) -> _Mistake:
    """One mistake that names what the field may be."""
    messages = list(dict.fromkeys(mistake.entry["msg"] for mistake in mistakes))
    if all(message.startswith(_EXPECTED) for message in messages):
        message = _EXPECTED + " or ".join(message.removeprefix(_EXPECTED) for message in messages)
    else:
        message = "; or: ".join(messages)
    return mistakes[0]._replace(entry={**mistakes[0].entry, "msg": message}, place=field)
