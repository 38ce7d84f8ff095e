"""YAML is read within bounds, and no word or number silently becomes something else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tsctl.config import yaml_files
from tsctl.config.yaml_files import MAX_BYTES, MAX_DEPTH, YamlMistake, parse_yaml, read_yaml


@pytest.fixture(params=["c", "python"], autouse=True)
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both parsers: PyYAML has the one in C only where libyaml was there when it was built."""
    monkeypatch.setattr(yaml_files, "_LOADER", yaml.CSafeLoader if request.param == "c" else yaml.SafeLoader)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a", "a"),
        ("y", "y"),
        ("1.0.0", "1.0.0"),
        ("95%", "95%"),
        ("http://h:80", "http://h:80"),
        ('"yes"', "yes"),
        ("!!str 1.10", "1.10"),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("# nothing", None),
        ("0", 0),
        ("-12", -12),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1.0e-5", 1e-5),
        ("[1, [2]]", [1, [2]]),
        ("{a: {b: c}}", {"a": {"b": "c"}}),
        ("a: &x {b: 1}\nc: *x", {"a": {"b": 1}, "c": {"b": 1}}),
        ("a: &x {b: 1, c: 2}\nd: {<<: *x, b: 3}", {"a": {"b": 1, "c": 2}, "d": {"b": 3, "c": 2}}),
        ("x: {<<: [{a: 1}, {a: 2, b: 2}]}", {"x": {"a": 1, "b": 2}}),
        ("\ufeffa: 1", {"a": 1}),
        ("a: 1\r\nb: |\r\n  two\r\n", {"a": 1, "b": "two\n"}),
    ],
)
def test_exact_values_are_read(text: str, value: Any) -> None:
    read = parse_yaml(text.encode())
    assert read == value
    assert isinstance(read, type(value))


AMBIGUOUS = (
    "yes", "No", "ON", "off", "0777", "0o17", "0x1F", "+1", "0b11", "1_000", "1:30", "1:30.5", "2024-01-01",
    "2001-12-14t21:59:43.10-05:00", "1e3", "1_0.5", "=", "<<", ".inf", "-.INF", ".nan", "1.0e+999",
)  # fmt: skip


@pytest.mark.parametrize("text", AMBIGUOUS)
@pytest.mark.parametrize("place", ["{}", "a: {}", "- {}", "{}: a", "[[{}]]"])
def test_what_versions_of_yaml_read_in_different_ways_is_refused_with_its_place(text: str, place: str) -> None:
    if text == "<<" and place == "{}: a":
        return  # a merge key, which has tests of its own
    with pytest.raises(YamlMistake, match=r"^line 1, column \d+: .*(quote it|finite|is not allowed)"):
        parse_yaml(place.format(text).encode())
    assert parse_yaml(place.format(f"'{text}'").encode()) == yaml.safe_load(place.format(f"'{text}'"))


def test_the_message_says_what_to_write() -> None:
    with pytest.raises(YamlMistake, match=r'yes is read in different ways .*quote it, as in "yes", or write true or f'):
        parse_yaml(b"a: yes")


def test_a_number_is_shown_as_it_was_written_and_is_a_number() -> None:
    value = parse_yaml(b"{a: 1.10}")
    assert (repr(value), value["a"] + 1, json.dumps(value)) == ("{'a': 1.10}", 2.1, '{"a": 1.1}')


BOMBS: dict[str, tuple[bytes, str]] = {
    "a huge integer": (b"a: 0x" + b"f" * 6000, "more than 40 characters"),
    "a huge decimal": (b"a: " + b"9" * 6000, "more than 40 characters"),
    "a long fraction": (b"a: 0." + b"1" * 6000, "more than 40 characters"),
    "sixties": (b"a: 1" + b":59" * 2000, "more than 40 characters"),
    "deep lists": (b"[" * 100_000, f"more than {MAX_DEPTH} deep"),
    "deep mappings": (b"{a: " * 5000, f"more than {MAX_DEPTH} deep"),
    "deep blocks": (b"- " * 5000, f"more than {MAX_DEPTH} deep"),
    "aliases": (
        b"a0: &a0 [x, x]\n" + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (i, i, i - 1, i - 1) for i in range(1, 40)),
        "more than 500000 values",
    ),
    "merges": (
        b"a0: &a0 {x: [1, 2]}\n"
        + b"".join(b"a%d: &a%d {<<: [*a%d, *a%d], k%d: 1}\n" % (i, i, i - 1, i - 1, i) for i in range(1, 40)),
        "more than 500000 values",
    ),
    "levels of aliases": (
        b"a0: &a0 x\n" + b"".join(b"a%d: &a%d [*a%d]\n" % (i, i, i - 1) for i in range(1, 200)),
        f"more than {MAX_DEPTH} deep",
    ),
    "a long text, often": (b"a: &a " + b"x" * 50_000 + b"\nb: [" + b"*a, " * 1000 + b"]", "more than 500000 values"),
    "an alias of itself": (b"a: &a [*a]", r"\*a stands for nothing, or for itself"),
    "an unknown alias": (b"a: *b", r"\*b stands for nothing|undefined alias"),
    "many bytes": (b"#" * (MAX_BYTES + 1), "more than 8 MiB"),
    "two documents": (b"a: 1\n---\nb: 2\n", "a second document"),
    "a key twice": (b"a: 1\na: 2\n", "line 2, column 1: the key 'a' is a duplicate"),
    "a number twice": (b"1.1: 1\n1.10: 2\n", "the key 1.10 is a duplicate"),
    "a list as a key": (b"? [a]\n: b\n", "a key must be one word or number"),
    "a merge of a word": (b"<<: a", "expects a mapping"),
    "an object": (b"!!python/object/apply:os.system [x]", "is not allowed"),
    "a set": (b"!!set {a, b}", "is not allowed"),
    "bytes": (b"a: !!binary aGk=", "is not allowed"),
    "a zero byte": (b'a: "\\0"', "no file name or message can hold"),
    "half a pair": (b'a: "\\ud800"', "no file name or message can hold|invalid Unicode"),
    "a control character": (b"a: \x07", "special characters are not allowed|control characters"),
    "Latin-1": (b"a: \xe9", "cannot be read as UTF-8: byte 3 is 0xe9"),
    "UTF-16": ("a: b".encode("utf-16"), "cannot be read as UTF-8"),
    "an unclosed list": (b"a: [", "line [12]"),
    "a tab": (b"a:\n\t- b", "line 2"),
    "an unknown directive": (b"%TAG ! x\n%FOO\n", "line"),
}


@pytest.mark.parametrize(("content", "expected"), BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("exact", [True, False])
def test_every_bound_is_one_error(content: bytes, expected: str, exact: bool) -> None:
    with pytest.raises(YamlMistake, match=expected):
        parse_yaml(content, exact)


@pytest.mark.parametrize("content", [b"'%s': 1\n" * 2 % (b"k" * 9000, b"k" * 9000), b"a: !%s b" % (b"t" * 9000)])
def test_a_message_has_a_bound(content: bytes) -> None:
    with pytest.raises(YamlMistake) as raised:
        parse_yaml(content)
    assert len(str(raised.value)) < 300


def test_words_of_yaml_1_1_are_read_where_torchserve_reads_them() -> None:
    text = b"[yes, 0777, 1:30, 1_000, 2024-01-01, 1e3, 0x1F, .inf]"
    assert parse_yaml(text, exact=False) == [True, 511, 90, 1000, "2024-01-01", "1e3", 31, float("inf")]
    with pytest.raises(YamlMistake, match="0b_ is no number"):
        parse_yaml(b"0b_", exact=False)


def test_a_file_is_read_to_its_bound_and_no_further() -> None:
    with pytest.raises(YamlMistake, match="more than 8 MiB"):
        read_yaml(Path("/dev/zero"))


#: Words that PyYAML writes without quotes, and YAML 1.2 takes for numbers; they are refused, as other tests say.
NUMBERS_OF_1_2 = re.compile(r"[-+]?(\.[0-9]+|[0-9]+\.?[0-9]*)[eE][-+]?[0-9]+|0o[0-7]+")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(-1e18, 1e18) | st.text(
        st.characters(exclude_categories=["Cs", "Cc"])
    ).filter(lambda text: not NUMBERS_OF_1_2.fullmatch(text)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("ab1:y<"), inner),
    max_leaves=20,
)  # fmt: skip


@given(VALUES)
def test_what_pyyaml_writes_is_read_back_the_same(value: Any) -> None:
    assert parse_yaml(yaml.safe_dump(value).encode()) == value


@given(st.text() | st.text("&*[]{}<>:-?!|'\"%@#a1.0e_ \n"))
def test_any_text_is_a_value_or_a_mistake(text: str) -> None:
    try:
        value = parse_yaml(text.encode("utf-8", "surrogatepass"))
    except YamlMistake:
        return
    json.dumps(value, allow_nan=False)


#: What the tests below have in the environment.
VARIABLES = {"HOST": "10.0.0.7", "WORKERS": "2", "EMPTY": "", "NAMES": "${HOST}", "SHOUT": "yes", "LINES": "a: b\nc"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${WORKERS}", 2),
        ("0${EMPTY}", 0),
        ("${WORKERS}.5", 2.5),
        ("'${WORKERS}'", "2"),
        ('"${WORKERS}"', "2"),
        ("!!str ${WORKERS}", "2"),
        ("|-\n    at ${HOST}", "at 10.0.0.7"),
        ("http://${HOST}:8080", "http://10.0.0.7:8080"),
        ("[1, '${HOST}']", [1, "10.0.0.7"]),
        ("[&a '${HOST}', *a]", ["10.0.0.7", "10.0.0.7"]),
        ("${EMPTY}", None),
        ("'${EMPTY}'", ""),
        ("${MISSING:-3}", 3),
        ("${EMPTY:-true}", True),
        ("${HOST:-3}", "10.0.0.7"),
        ("${MISSING:-}", None),
        ("${MISSING:-http://h:80/a b}", "http://h:80/a b"),
        ("$${HOST}", "${HOST}"),
        ("a$$b$$$$", "a$b$$"),
        ("$HOST costs $5 $", "$HOST costs $5 $"),
        ("${NAMES}", "${HOST}"),
        ("'${LINES}'", "a: b\nc"),
    ],
)
def test_values_hold_variables(text: str, value: Any) -> None:
    read = parse_yaml(f"a:\n  b: {text}".encode(), variables=VARIABLES)["a"]["b"]
    assert read == value
    assert isinstance(read, type(value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:\n  b: [1, '${NONE}']", r"^a\.b\.1: the environment has no variable NONE; set it, or write \$\{NAME\}"),
        ("'${NONE}'", r"^the environment has no variable NONE"),
        ("a: ${NONE}\nb: ${OTHER}", r"(?s)^a: the environment has no variable NONE.*\nb: .*no variable OTHER"),
        ("a: ${}", r"^line 1, column 4: a: '\$\{\}' names no variable"),
        ("a: ${HOST", r"a: '\$\{HOST' names no variable"),
        ("a: ${1}", r"names no variable"),
        ("a: ${HOST:?why}", r"names no variable; write \$\{NAME\}, \$\{NAME:-default\}, or \$\$ for a dollar"),
        ("a: ${NONE:-${HOST}}", r"the default of NONE holds another name"),
        ("${HOST}: 1", r"line 1, column 1: the key '\$\{HOST\}' holds a variable, which only values may"),
        ("a: {'${HOST}': 1}", r"the key '\$\{HOST\}' holds a variable"),
        ("a: {b: ${HOST}}", r"line 1.*between \{ \} or \[ \], \$\{NAME\} needs quotes"),
        ("a: ${SHOUT}", r"line 1, column 4: yes is read in different ways"),
    ],
)
def test_a_variable_that_cannot_be_replaced_is_told(text: str, message: str) -> None:
    with pytest.raises(YamlMistake, match=message):
        parse_yaml(text.encode(), variables=VARIABLES)


def test_without_variables_a_name_is_text() -> None:
    assert parse_yaml(b"${HOST}: $$ ${NONE}") == {"${HOST}": "$$ ${NONE}"}
    with pytest.raises(YamlMistake) as caught:
        parse_yaml(b"a: {b: ${HOST}}")
    assert "needs quotes" not in str(caught.value)
