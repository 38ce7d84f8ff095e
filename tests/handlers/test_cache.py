"""The response cache without a server: keys that never collide, bounds that hold, and what is computed when."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import math
import string
import time
from decimal import Decimal
from typing import Annotated, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from handlers.cache.keys import KeyMaker, canonical
from handlers.cache.local import (
    ENTRY_BYTES,
    AnswerStore,
    CachedAnswer,
    Directive,
    ResponseCache,
    SharedAnswer,
    directive,
    steady_clock,
)
from handlers.contract import Tolerance
from handlers.schema import Schema

# ---- keys ------------------------------------------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | st.binary()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
)


class Free(Schema):
    """Any value."""

    value: Any


@given(values, values)
def test_two_values_have_equal_bytes_only_where_they_are_the_same(one: Any, other: Any) -> None:
    assert (canonical(Free(value=one)) == canonical(Free(value=other))) == (_exact(one) == _exact(other))


def _exact(value: Any) -> str:
    """Tells 1, 1.0 and True apart, and 0.0 and -0.0, as Python's == does not."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_exact(key)}: {_exact(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_exact, value)) + "]"
    return f"{type(value).__name__} {value!r} {math.copysign(1, value) if isinstance(value, float) else ''}"


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), st.text(), st.binary())
def test_another_archive_changes_every_key(one: bytes, other: bytes, media_type: str, item: bytes) -> None:
    media_type = media_type.encode("utf-8", "replace").decode()
    assert (KeyMaker(one)(media_type, item) == KeyMaker(other)(media_type, item)) == (one == other)


@given(st.text(string.ascii_lowercase, max_size=4), st.binary(max_size=4), st.text(string.ascii_lowercase), st.binary())
def test_another_media_type_or_item_changes_the_key(type_a: str, item_a: bytes, type_b: str, item_b: bytes) -> None:
    key = KeyMaker(b"d" * 32)
    assert (key(type_a, item_a) == key(type_b, item_b)) == ((type_a, item_a) == (type_b, item_b))
    assert len(key(type_a, item_a)) == 32


class Colour(enum.Enum):
    """A value that is no plain one."""

    RED = 1
    BLUE = 2


@dataclasses.dataclass
class Point:
    """Neither is this."""

    x: float
    y: float


class Odd(BaseModel):
    """What schemas of users may hold."""

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="allow")
    hidden: int = Field(default=0, exclude=True)
    numbers: Annotated[list[float], AfterValidator(np.asarray)] = []


DIFFERENT = [
    Odd(hidden=1),
    Odd(hidden=2),
    Odd.model_validate({"more": 1}),
    Odd.model_validate({"more": 1.0}),
    Odd(numbers=[1, 2]),
    Free(value=np.zeros(4, np.float32)),
    Free(value=np.zeros((2, 2), np.float32)),
    Free(value=np.zeros(4, np.int32)),
    Free(value=b"\0" * 16),
    Free(value=torch.zeros(4)),
    Free(value=torch.zeros(2, 2)),
    Free(value=torch.zeros(8, dtype=torch.bfloat16)),
    Free(value=Colour.RED),
    Free(value=Colour.BLUE),
    Free(value=1),
    Free(value=Point(1, 2)),
    Free(value=Point(2, 1)),
    Free(value=datetime.datetime(2026, 1, 1)),
    Free(value=datetime.date(2026, 1, 1)),
    Free(value=Decimal("1.0")),
    Free(value=Decimal("1.00")),
    Free(value=(1, 2)),
    Free(value=[1, 2]),
    Free(value={1, 2}),
    Free(value=frozenset({1, 2})),
    Free(value={"a": [1]}),
    Free(value={"a": (1,)}),
    ("image/png", b"body"),
    ["image/png", b"body"],
    b"body",
    "body",
]


def test_what_json_or_bare_bytes_would_mix_up_stays_apart() -> None:
    assert len({canonical(item) for item in DIFFERENT}) == len(DIFFERENT)


def test_what_is_equal_has_equal_bytes_however_it_was_written() -> None:
    class Row(Schema):
        """Two fields."""

        a: float
        b: list[int] = [1]

    one, other = (Row.model_validate_json(text) for text in ('{"a": 1, "b": [1]}', '{ "b":[1],\n"a":1.0 }'))
    assert canonical(one) == canonical(other) == canonical(Row.model_validate_json('{"a": 1}'))
    assert canonical(Free(value={"b", "a", "c"})) == canonical(Free(value={"c", "b", "a"}))
    assert canonical(np.arange(6)[::2]) == canonical(np.array([0, 2, 4]))


@pytest.mark.parametrize("item", [object(), Free(value=object()), Free(value=SecretStr("x")), np.array([object()])])
def test_what_cannot_be_told_apart_is_no_key(item: Any) -> None:
    with pytest.raises(TypeError, match="canonical"):
        canonical(item)


# ---- the store -------------------------------------------------------------------------------------------------------


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


X = CachedAnswer(b"x")
ONE = CachedAnswer(b"1", "small")
keys = st.sampled_from([bytes([i]) * 32 for i in range(8)])


@given(st.lists(st.tuples(keys, st.binary(max_size=600), st.floats(0.1, 5)) | keys, max_size=60))
def test_the_store_never_holds_more_bytes_than_it_may_and_only_what_was_put_last(operations: list[Any]) -> None:
    clock = Clock()
    store = AnswerStore(2000, clock)
    put: dict[bytes, tuple[bytes, float]] = {}
    for operation in operations:
        if isinstance(operation, tuple):
            key, body, ttl = operation
            put[key] = (body, clock.now + ttl)
            store.put(key, CachedAnswer(body), clock.now + ttl)
        else:
            found = store.get(operation)
            assert found is None or (found.body == put[operation][0] and put[operation][1] > clock.now)
        clock.now += 0.5
        assert store.bytes <= 2000
    assert store.bytes == sum(len(put[key][0]) + ENTRY_BYTES for key in put if key in store._entries)


def test_the_least_recently_used_answer_leaves_first() -> None:
    store = AnswerStore(3 * (ENTRY_BYTES + 1), Clock())
    for name in b"abc":
        store.put(bytes([name]), X, 2000)
    assert store.get(b"a") == X
    store.put(b"d", X, 2000)
    assert [store.get(bytes([name])) for name in b"abcd"] == [X, None, X, X]


def test_a_body_larger_than_the_store_is_not_held_and_costs_no_other_its_place() -> None:
    store = AnswerStore(1000, Clock())
    store.put(b"a", X, 2000)
    store.put(b"b", CachedAnswer(b"x" * 1000), 2000)
    assert (store.get(b"a"), store.get(b"b"), len(store)) == (X, None, 1)


# ---- what is computed ------------------------------------------------------------------------------------------------


class Tier:
    """A shared tier in a dictionary."""

    def __init__(self) -> None:
        self.held: dict[bytes, SharedAnswer] = {}
        self.asked: list[bytes] = []

    def get(self, keys: Any) -> dict[bytes, SharedAnswer]:
        self.asked += keys
        return {key: self.held[key] for key in keys if key in self.held}

    def put(self, entries: dict[bytes, CachedAnswer], created: float) -> None:
        self.held.update({key: SharedAnswer(answer, created) for key, answer in entries.items()})


def cache(clock: Clock, shared: Tier | None = None, check: float = 0.0, chance: float = 0.5) -> ResponseCache:
    store = AnswerStore(1 << 20, clock)
    tolerance = Tolerance(absolute=0.01)
    return ResponseCache(KeyMaker(b"a"), store, shared, 60, check, tolerance, clock, lambda: chance)


USE, REFRESH, BYPASS = Directive.USE, Directive.REFRESH, Directive.BYPASS


def test_equal_items_of_a_batch_are_computed_once_but_for_those_that_ask_otherwise() -> None:
    lookup = cache(Clock()).look_up([b"a", b"b", b"a", b"a", b"a", b"b"], [USE, USE, USE, BYPASS, REFRESH, USE])
    assert lookup.compute == [0, 1, 3, 4]
    assert lookup.same == {2: 0, 5: 1}
    assert not lookup.known


def test_what_is_remembered_is_not_computed_until_its_time_is_over() -> None:
    clock = Clock()
    known = cache(clock)
    known.keep({b"a": ONE})
    assert known.look_up([b"a", b"b"], [USE, USE]).known == {0: ONE}
    assert known.look_up([b"a", b"a"], [BYPASS, REFRESH]).compute == [0, 1]
    clock.now += 60
    assert known.look_up([b"a"], [USE]).compute == [0]


def test_the_shared_tier_is_asked_once_for_what_is_unknown_here_and_its_answers_keep_their_age() -> None:
    clock, tier = Clock(), Tier()
    cache(clock, tier).keep({b"a": ONE})
    other = cache(clock, tier)
    clock.now += 50
    lookup = other.look_up([b"a", b"a", b"b"], [USE, USE, USE])
    assert (lookup.known, lookup.compute) == ({0: ONE, 1: ONE}, [2])
    assert lookup.tiers == {0: "shared", 1: "shared"}
    assert tier.asked == [b"a", b"b"]
    assert other.look_up([b"a"], [USE]).tiers == {0: "worker"}
    clock.now += 10
    assert other.look_up([b"a"], [USE]).compute == [0]  # 60 s after it was made, whoever holds it


@pytest.mark.parametrize(
    ("created", "is_known"),
    [(941, True), (940, False), (1000, True), (1060, True), (1061, False), (4600, False), (math.nan, False),
     (math.inf, False), (-math.inf, False), (1e300, False)],
)  # fmt: skip
def test_an_answer_of_a_clock_that_was_set_is_a_miss(created: float, is_known: bool) -> None:
    tier = Tier()
    tier.held[b"a"] = SharedAnswer(ONE, created)
    assert bool(cache(Clock(), tier).look_up([b"a"], [USE]).known) is is_known


def test_setting_the_hosts_clock_changes_no_age(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    clock = steady_clock()
    assert abs(clock() - now) < 5
    for moved in (-3600.0, 3600.0):
        monkeypatch.setattr(time, "time", lambda moved=moved: now + moved)
        assert 0 <= clock() - now < 60


def test_a_cached_answer_that_no_reader_takes_is_wrong_and_no_failure() -> None:
    assert not cache(Clock()).is_right(b"1" * 5000, b"2")
    assert not cache(Clock()).is_right(b"not JSON", b"2")


def test_a_share_of_the_hits_is_computed_all_the_same() -> None:
    known = cache(Clock(), check=0.5, chance=0.4)
    known.keep({b"a": CachedAnswer(b'{"x": 1.0}')})
    lookup = known.look_up([b"a"], [USE])
    assert (lookup.compute, lookup.checked, lookup.known) == ([0], {0: CachedAnswer(b'{"x": 1.0}')}, {})
    assert known.is_right(b'{"x": 1.0}', b'{"x": 1.005}')
    assert not known.is_right(b'{"x": 1.0}', b'{"x": 1.1}')


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        (None, USE),
        ("", USE),
        ("max-age=60", USE),
        ("no-transform, only-if-cached", USE),
        ("no-cache", REFRESH),
        ("No-Cache", REFRESH),
        ("max-age=0", REFRESH),
        ("no-store", BYPASS),
        (" no-cache ,no-store ", BYPASS),
        ("nostore", USE),
    ],
)
def test_cache_control(sent: str | None, meant: Directive) -> None:
    assert directive(sent) is meant
