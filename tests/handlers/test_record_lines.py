"""What a record says: who is sampled, features of inputs, summaries of answers, sketches, and the line itself."""

from __future__ import annotations

import enum
import json
from dataclasses import fields, replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import Field

from handlers.cache.keys import canonical
from handlers.errors import DoesNotFit
from handlers.messages import Outcome, Request, problem
from handlers.records.record import LONGEST_LINE, Batch, Recording, Sampled
from handlers.records.sampling import batch_sampler, sampler
from handlers.records.sketch import LONGEST, SKETCH, sketch
from handlers.records.summary import FEW, MOST_FEATURES, features, prediction
from handlers.schema import Schema
from tsctl.shadow.comparators import NotComparable
from tsctl.shadow.summaries import CompareOptions, Summary, SummaryComparator

IDS = [f"id-{number}" for number in range(20_000)]


# ---- sampling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.001, 0.01, 0.5])
def test_the_share_of_ids_is_sampled_even_where_they_are_consecutive(share: float) -> None:
    sampled = sum(map(sampler(share), IDS))
    deviation = (len(IDS) * share * (1 - share)) ** 0.5
    assert abs(sampled - len(IDS) * share) < 4 * deviation


@given(st.text(min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_samples_all_that_a_smaller_one_does(request_id: str, one: float, other: float) -> None:
    small, large = sampler(min(one, other)), sampler(max(one, other))
    assert large(request_id) or not small(request_id)


def test_all_and_none_are_sampled_and_nothing_without_an_id() -> None:
    assert all(map(sampler(1.0), IDS))
    assert not any(map(sampler(0.0), IDS))
    assert [sampler(share)(name) for share in (1.0, 0.5) for name in (None, "")] == [False] * 4


def test_every_process_and_every_later_version_samples_the_same_ids() -> None:
    assert [name for name in IDS[:24] if sampler(0.3)(name)] == ["id-3", "id-10", "id-15", "id-16", "id-18", "id-19"]


@given(st.lists(st.one_of(st.none(), st.text(st.characters(), max_size=9))), st.sampled_from([0.0, 0.01, 0.5, 1.0]))
@example([None, "", "id-3"], 0.3)
@example(["\ud800", "", "id-3"], 0.3)
def test_of_a_batch_the_same_ids_are_sampled(ids: list[str | None], share: float) -> None:
    is_sampled = sampler(share)
    assert batch_sampler(share)(ids) == [place for place, request_id in enumerate(ids) if is_sampled(request_id)]


# ---- features of inputs ----------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = 1


class Inner(Schema):
    height: int


class Form(Schema):
    age: int
    weight: float | None = None
    is_member: bool
    plan: Literal["free", "paid"]
    colour: Colour | None = None
    name: str
    tags: list[str]
    few: list[float]
    pixels: list[list[float]]
    inner: Inner
    shown: float = Field(alias="shown as")
    anything: dict[str, int]
    raw: bytes


FORM = Form(
    age=41, is_member=True, plan="paid", colour=Colour.RED, name="Ada Lovelace", tags=["ab", "c"], few=[1.0, 2.0],
    pixels=[[0.0, 1.0], [2.0, 3.0]], inner=Inner(height=7), anything={"secret": 1}, raw=b"abc", **{"shown as": 0.5},
)  # fmt: skip


def test_each_field_becomes_numbers_or_a_category_and_no_text_is_kept() -> None:
    assert features(FORM) == {
        "age": 41.0, "is_member": "true", "plan": "paid", "colour": "RED", "name.length": 12.0,
        "tags.length": 2.0, "tags.characters": 3.0, "few.0": 1.0, "few.1": 2.0,
        "pixels.length": 2.0, "pixels.mean": 1.5, "pixels.std": 1.118034, "pixels.min": 0.0, "pixels.max": 3.0,
        "inner.height": 7.0, "shown as": 0.5, "anything.length": 1.0, "raw.length": 3.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (3, {"value": 3.0}),
        ("free text", {"length": 9.0}),
        (None, {}),
        (np.float32(0.5), {"value": 0.5}),
        (float("nan"), {}),
        ([1, float("inf")], {"0": 1.0}),
        ([], {"length": 0.0}),
        ([[1.0], [2.0, 3.0]], {"length": 2.0}),
        (np.arange(4).reshape(2, 2), {"length": 2.0, "mean": 1.5, "std": 1.118034, "min": 0.0, "max": 3.0}),
        (torch.tensor([0.5]), {"0": 0.5}),
        ([10**400], {"length": 1.0}),
        (object(), {}),
    ],
    ids=lambda value: None if type(value) is object else repr(value)[:40],  # its address differs between processes
)
def test_an_item_of_any_type_has_features(item: Any, expected: dict[str, Any]) -> None:
    assert features(item) == expected


def test_features_are_bounded_however_long_the_input_is() -> None:
    assert len(features([0.5] * FEW)) == FEW
    assert len(features([0.5] * (FEW + 1))) == 5
    assert len(features([[float(number)] * 2 for number in range(1000)])) == 5
    wide = type("Wide", (Schema,), {"__annotations__": {f"f{number}": float for number in range(500)}})
    assert len(features(wide(**{f"f{number}": 1.0 for number in range(500)}))) == MOST_FEATURES


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_features_and_predictions_of_any_json_are_finite_numbers_and_texts(value: Any) -> None:
    for number in features(value).values():
        assert isinstance(number, str) or np.isfinite(number)
    found = prediction(json.loads(json.dumps(value, allow_nan=True).replace("NaN", "0").replace("Infinity", "1")), "")
    assert found.score is None or np.isfinite(found.score)


# ---- answers ---------------------------------------------------------------------------------------------------------


def test_an_answer_with_probabilities_has_its_label_scores_and_the_best() -> None:
    answer = {
        "label": "7",
        "probabilities": [0.1, 0.7, 0.2],
        "top_k": [{"label": "7", "probability": 0.7}],
    }
    found = prediction(answer, "7")
    assert (found.label, found.score, found.scores, found.outputs) == ("7", 0.7, [0.1, 0.7, 0.2], {})
    assert (found.sketch, found.text_length) == (None, None)  # the scores say all, and the label is no text
    assert found.norm == pytest.approx(0.7348469)


def test_an_answer_of_one_number_has_it_as_its_score() -> None:
    assert prediction({"label": "malignant", "probability": 0.25}, "malignant").score == 0.25
    bare = prediction(3, "")
    assert (bare.score, bare.outputs) == (3.0, {"value": 3.0})
    several = prediction({"low": 1, "high": 2}, "")
    assert (several.score, several.outputs) == (None, {"low": 1.0, "high": 2.0})
    sure = prediction({"ok": True, "score": 0.3}, "")
    assert (sure.score, sure.outputs) == (0.3, {"ok": 1.0, "score": 0.3})  # a boolean is an output, and no score
    assert prediction({"flagged": True}, "").score is None


def test_an_answer_of_texts_has_their_length_and_digest_alone() -> None:
    found = prediction({"summary": "Ada was here", "label": "x"}, "x")
    assert found.text_length == 12
    assert found.text_digest == prediction("Ada was here", "").text_digest
    assert found.text_digest != prediction("Ada was there", "").text_digest
    assert len(found.text_digest or "") == 32


BOXES = {"count": 2, "boxes": [{"kind": "cat", "box": [0, 0, 1, 1]}], "size": 0.5, "curve": [0.5, 1.5]}


@pytest.mark.parametrize(
    ("changed", "is_same"),
    [
        ({"size": 0.6}, True),
        ({"curve": [0.5, 1.6]}, True),
        ({"curve": [0.5]}, False),
        ({"count": 3}, False),
        ({"boxes": [{"kind": "dog", "box": [0, 0, 1, 1]}]}, False),
        ({"boxes": []}, False),
        ({"more": None}, False),
        ({"tags": ["a", "b"]}, False),
        ({"mask": [[0, 1]]}, False),
        ({"is_sure": True}, False),
    ],
)
def test_the_digest_of_the_rest_has_all_that_no_other_column_has(changed: dict[str, Any], is_same: bool) -> None:
    found, other = prediction(BOXES, ""), prediction({**BOXES, **changed}, "")
    assert (found.rest_digest == other.rest_digest) is is_same
    assert (found.lists, found.rest_has_fractions) == (["curve"], False)


@pytest.mark.parametrize(
    ("answer", "has"),
    [
        ({"y": 0.5, "v": [0.5], "n": [[1]]}, False),
        ({"boxes": [{"box": [0.5]}]}, True),
        ([[0.5], [0.5, 1.5]], True),
        ({"long": [0.5] * (LONGEST + 1)}, True),
        ({"long": [1] * (LONGEST + 1)}, False),
        ({f"f{number}": 0.5 for number in range(MOST_FEATURES + 1)}, True),
    ],
    ids=["columns", "nested", "ragged", "no sketch", "integers", "too many fields"],
)
def test_fractions_that_no_column_has_are_marked(answer: Any, has: bool) -> None:
    assert prediction(answer, "").rest_has_fractions is has


def summary(answer: Any) -> Summary:
    """As a record has it."""
    line = json.loads(RECORDING.record(replace(ANSWERED, outcome=Outcome(200, json.dumps(answer).encode()))))
    names = {each.name for each in fields(Summary)}
    return Summary(**{name: value for name, value in line.items() if name in names})


@pytest.mark.parametrize(
    ("stable", "shadow"),
    [
        ({"count": 1, "boxes": [{"kind": "cat"}]}, {"count": 1, "boxes": [{"kind": "dog"}]}),
        ({"id": 1, "tags": ["a", "b"]}, {"id": 1, "tags": ["c"]}),
        ({"kind": "x", "parts": None}, {"kind": "x", "parts": []}),
        ([[1], [2, 3]], [[1], [2, 4]]),
        ({"flagged": True}, {"flagged": False}),
    ],
)
def test_a_shadow_that_differs_in_what_no_column_has_differs(stable: Any, shadow: Any) -> None:
    for options in (CompareOptions(), CompareOptions("json")):
        assert SummaryComparator(options)(summary(stable), summary(shadow)).differs
        assert not SummaryComparator(options)(summary(stable), summary(stable)).differs


def test_nested_fractions_that_differ_need_whole_answers() -> None:
    stable, shadow = ({"count": 1, "boxes": [{"box": [0.1, size]}]} for size in (0.2, 0.9))
    with pytest.raises(NotComparable, match="answers: true"):
        SummaryComparator()(summary(stable), summary(shadow))
    assert not SummaryComparator()(summary(stable), summary(stable)).differs


def test_a_named_list_is_compared_by_its_own_numbers_or_not_at_all() -> None:
    by = CompareOptions("vector", "v")
    assert SummaryComparator(by)(summary({"v": [1.0, 0.0]}), summary({"v": [0.0, 1.0]})).differs
    with pytest.raises(NotComparable, match="are of ids, v"):
        SummaryComparator(by)(summary({"ids": [9, 9], "v": [1.0, 0.0]}), summary({"ids": [9, 9], "v": [0.0, 1.0]}))


def test_a_vector_has_a_norm_and_a_sketch_whose_distances_are_the_vectors() -> None:
    random = np.random.default_rng(1)
    ratios = []
    for _ in range(200):
        vector = random.normal(size=384)
        other = vector + random.normal(size=384) / 100
        first, second = (np.array(prediction({"e": [each.tolist()]}, "").sketch) for each in (vector, other))
        ratios.append(np.sum((first - second) ** 2) / np.sum((vector - other) ** 2))
    assert len(first) == SKETCH
    assert np.mean(ratios) == pytest.approx(1, abs=0.1)  # 4 standard errors of sqrt(2 / 16 / 200)
    assert np.std(ratios) == pytest.approx(0.354, abs=0.1)


def test_sketches_have_a_bounded_length_and_are_the_same_in_every_version() -> None:
    assert sketch(np.ones(LONGEST + 1)) is None
    assert sketch(np.ones(0)) is None
    assert sketch(np.array([1e300, 1.0])) is None
    assert sketch(np.ones(4)) == [-0.5, -0.5, 0.5, -0.5, 0.0, -1.0, -0.5, 0.0, 0.0, 0.0, 0.5, 0.5, 0.5, 0.0, 0.0, 0.0]


# ---- the line --------------------------------------------------------------------------------------------------------

RECORDING = Recording("toy", "1.0", features, canonical, lambda item: item, keeps_inputs=True)
BATCH = Batch(end=1_764_150_000.5, batch_s=0.004, items=3, seconds={"decode": 0.001, "inference": 0.0025})
HEADERS = {"x-tsctl-client": "shop", "x-tsctl-track": "canary", "x-tsctl-sent-ms": "1764150000490"}
ANSWERED = Sampled(
    Request(b"{}", "application/json", HEADERS, "abc"), FORM, Outcome(200, b'{"score":0.5}', cache="miss"), BATCH
)


def test_a_line_has_the_columns_of_the_page() -> None:
    line = json.loads(RECORDING.record(ANSWERED))
    identity = {"time_us": 1764150000500000, "request_id": "abc", "row": 0, "model": "toy", "version": "1.0"}
    assert line.items() >= {**identity, "client": "shop", "track": "canary", "status": 200, "cache": "miss"}.items()
    assert line.items() >= {"batch_items": 3, "batch_ms": 4.0, "wait_ms": 6.0, "decode_ms": 1.0}.items()
    assert line["numbers"]["age"] == 41
    assert line["categories"]["plan"] == "paid"
    assert line["score"] == 0.5
    assert "Ada" not in RECORDING.record(ANSWERED).decode()
    assert "label" not in line  # null columns are left out


def test_equal_inputs_have_equal_digests_whatever_their_request() -> None:
    other = replace(ANSWERED, request=Request(b"{ }", "application/json", {}, "other"))
    digests = {json.loads(RECORDING.record(each))["input_digest"] for each in (ANSWERED, other)}
    assert len(digests) == 1
    changed = replace(ANSWERED, item=FORM.model_copy(update={"age": 42}))
    assert json.loads(RECORDING.record(changed))["input_digest"] not in digests
    assert "input_digest" not in json.loads(RECORDING.record(replace(ANSWERED, item=object())))


def test_a_request_that_does_not_fit_has_a_record_without_an_input() -> None:
    error = DoesNotFit("age: missing.", [])
    sampled = replace(ANSWERED, item=None, outcome=problem(error, "abc", "toy", "1.0"))
    line = json.loads(RECORDING.record(sampled))
    assert (line["status"], line["error"]) == (422, "does-not-fit-schema")
    assert line.keys().isdisjoint({"numbers", "input_digest", "score", "label"})
    assert RECORDING.input(sampled) == b""


@pytest.mark.parametrize(
    ("headers", "track"),
    [
        ({}, None),
        ({"x-tsctl-track": "none"}, None),
        ({"x-tsctl-track": "stable"}, "stable"),
        ({"x-tsctl-track": "stable", "x-tsctl-shadow": "1"}, "shadow"),
    ],
)
def test_the_track_is_the_gateways_and_a_copy_is_the_shadows(headers: dict[str, str], track: str | None) -> None:
    sampled = replace(ANSWERED, request=Request(b"{}", "application/json", headers, "abc"))
    line = json.loads(RECORDING.record(sampled))
    assert line.get("track") == track
    assert "wait_ms" not in line


@pytest.mark.parametrize("sent", ["", "soon", "-1", "9" * 16, "١"])  # noqa: RUF001 - a digit that is none here
def test_a_stamp_that_is_no_time_is_no_failure(sent: str) -> None:
    sampled = replace(ANSWERED, request=Request(headers={"x-tsctl-sent-ms": sent}, request_id="abc"))
    assert "wait_ms" not in json.loads(RECORDING.record(sampled))


def test_inputs_are_kept_only_where_the_archive_says_so_and_as_redact_leaves_them() -> None:
    kept = json.loads(RECORDING.input(ANSWERED))
    assert json.loads(kept["input"])["name"] == "Ada Lovelace"
    assert json.loads(kept["input"])["shown as"] == 0.5
    assert kept.keys() == {"time_us", "request_id", "row", "model", "version", "client", "input"}
    redacting = replace(RECORDING, redact=lambda item: {"age": item.age, "values": np.ones(2)})
    assert json.loads(json.loads(redacting.input(ANSWERED))["input"]) == {"age": 41, "values": [1.0, 1.0]}
    assert replace(RECORDING, redact=lambda item: None).input(ANSWERED) == b""
    body = {"media_type": "image/png", "body": b"\x89PNG"}
    picture = json.loads(replace(RECORDING, redact=lambda item: body).input(ANSWERED))
    assert (picture["media_type"], picture["input"]) == ("image/png", "iVBORw==")
    fields = {"media_type": "text", "body": "of a schema with these names"}
    alike = json.loads(replace(RECORDING, redact=lambda item: fields).input(ANSWERED))
    assert "media_type" not in alike and json.loads(alike["input"]) == fields
    assert replace(RECORDING, keeps_inputs=False).input(ANSWERED) == b""


def test_a_line_is_one_line_and_bounded() -> None:
    newline = replace(ANSWERED, request=Request(headers={"x-tsctl-client": "a\nb" * 1000}, request_id="a\nb"))
    line = RECORDING.record(newline)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert len(json.loads(line)["client"]) == 128
    with pytest.raises(ValueError, match=f"at most {LONGEST_LINE} are written"):
        replace(RECORDING, redact=lambda item: "x" * LONGEST_LINE).input(ANSWERED)
