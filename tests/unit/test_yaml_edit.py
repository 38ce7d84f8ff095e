"""Values are changed in YAML that a person wrote, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsctl.config.yaml_edit import NotEditable, set_values
from tsctl.config.yaml_files import YamlMistake, parse_yaml

TEXT = """\
# the top
model: digits
batch: {size: 32, max_delay_ms: 1}  # two keys
workers:
  min: 1   # at the start

threads: 1  # small
settings:
  labels: ["0", "1"]
  text: |
    several
    lines
versions:
  "1.0":
  "2.0":  # wide
    settings: {channels: [16, 32]}
# the end
"""


@pytest.mark.parametrize(
    ("values", "old", "new"),
    [
        ({("threads",): 2}, "threads: 1  # small", "threads: 2  # small"),
        ({("batch", "size"): 64}, "{size: 32, max_delay_ms: 1}  # two", "{size: 64, max_delay_ms: 1}  # two"),
        ({("workers", "min"): 2}, "min: 1   # at", "min: 2   # at"),
        ({("workers", "max"): 4}, "at the start\n", "at the start\n  max: 4\n"),
        ({("batch", "tokens"): 9}, "max_delay_ms: 1}", "max_delay_ms: 1, tokens: 9}"),
        ({("versions", "1.0", "threads"): 2}, '"1.0":\n', '"1.0": {threads: 2}\n'),
        ({("versions", "1.0"): {"threads": 2}}, '"1.0":\n', '"1.0": {threads: 2}\n'),
        ({("versions", "2.0", "dtype"): "bf16"}, "[16, 32]}\n", "[16, 32]}\n    dtype: bf16\n"),
        ({("compile",): True}, "[16, 32]}\n", "[16, 32]}\ncompile: true\n"),
        ({("settings", "more"): "true"}, "    lines\n", '    lines\n  more: "true"\n'),
        ({("cache", "max_mb"): 8}, "[16, 32]}\n", "[16, 32]}\ncache: {max_mb: 8}\n"),
    ],
)
def test_one_place_changes(values: dict[tuple[str, ...], Any], old: str, new: str) -> None:
    assert TEXT.count(old) == 1
    assert set_values(TEXT, values) == TEXT.replace(old, new)


def test_several_values_at_once_and_no_line_end() -> None:
    text = set_values("a: {}\nb: 1", {("a", "x"): 1, ("a", "y"): 2, ("c",): {"z": 3}})
    assert text == "a: {x: 1, y: 2}\nb: 1\nc: {z: 3}\n"


@pytest.mark.parametrize(
    ("text", "path", "reason"),
    [
        ("a: &one {x: 1}\nb: *one\n", ("b", "x"), "alias"),
        ("a: &one {x: 1}\nb: *one\n", ("a", "x"), "other values too"),
        ("a: &one {x: 1}\nb:\n  <<: *one\n  y: 2\n", ("b", "x"), "merges"),
        ("a: 1\n", ("a", "x"), "a is no mapping"),
        ("a: [1]\n", ("a",), "no single value"),
        ("- 1\n", ("a",), "the file is no mapping"),
    ],
)
def test_a_change_that_would_change_more_is_refused(text: str, path: tuple[str, ...], reason: str) -> None:
    with pytest.raises(NotEditable, match=reason):
        set_values(text, {path: 5})


def test_what_is_no_yaml_is_refused() -> None:
    with pytest.raises(YamlMistake):
        set_values("a: {", {("a",): 1})


@given(
    st.sampled_from(
        [("threads",), ("batch", "size"), ("versions", "1.0", "x"), ("versions", "2.0", "y"), ("new", "z")]
    ),
    st.one_of(st.integers(-9, 9999), st.booleans(), st.text("abc: #'\"yno1.-{}", max_size=8)),
)
def test_all_other_values_and_all_comments_stay(path: tuple[str, ...], value: Any) -> None:
    before, text = parse_yaml(TEXT.encode()), set_values(TEXT, {path: value})
    after = parse_yaml(text.encode())
    inside, key = after, path[-1]
    for name in path[:-1]:
        inside = inside[name]
    assert inside[key] == value
    assert [part for part in TEXT.split() if part.startswith("#")] == [
        part for part in TEXT.split() if part.startswith("#") and part in text
    ]
    assert {name: after[name] for name in before if name != path[0]} == {
        name: before[name] for name in before if name != path[0]
    }
