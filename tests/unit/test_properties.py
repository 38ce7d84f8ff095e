"""Java properties: what is rendered is read back, and the traps of the format are read as Java reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsctl.nodes.torchserve.properties import parse_properties, render_properties

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(st.dictionaries(TEXT.filter(bool), TEXT, max_size=5))
def test_what_is_rendered_is_read_back(properties: dict[str, str]) -> None:
    assert parse_properties(render_properties(properties)) == properties


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=1", {"a": "1"}),
        ("a = 1", {"a": "1"}),
        ("a: 1", {"a": "1"}),
        ("a 1", {"a": "1"}),
        ("a", {"a": ""}),
        ("a=1\na=2", {"a": "2"}),
        ("# a=1\n! b=2\n\nc=3", {"c": "3"}),
        ("a=1 \\\n   2", {"a": "1 2"}),
        ("url=file\\:///x", {"url": "file:///x"}),
        ("a\\=b=c", {"a=b": "c"}),
        ("a=x\\\\", {"a": "x\\"}),
        ("a=\\u00e9", {"a": "é"}),
        ("a=b=c", {"a": "b=c"}),
    ],
)
def test_lines_are_read_as_java_reads_them(text: str, expected: dict[str, str]) -> None:
    assert parse_properties(text) == expected
