"""Keys of clients: what is kept of them, and what becomes of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tsctl.errors import GatewayError, SpecError
from tsctl.gateway.keys import (
    added,
    clients,
    digest,
    new_key,
    plain_keys,
    read_keys,
    record_of,
    revoked,
    write_keys,
)  # fmt: skip


def test_keys_are_long_random_and_fit_into_a_header() -> None:
    keys = {new_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(re.fullmatch(r"tsctl_[A-Za-z0-9_-]{43}", key) for key in keys)


def test_the_file_holds_no_key_and_is_its_owners(tmp_path: Path) -> None:
    key = new_key()
    record = record_of(key, "search-team", 100, None)
    path = tmp_path / "keys.json"
    write_keys(path, [record])
    assert path.stat().st_mode & 0o777 == 0o600
    assert key not in path.read_text()
    assert key not in repr(record)
    assert read_keys(path) == [record]
    assert (record.requests_per_s, record.burst) == (100, 100)
    assert read_keys(tmp_path / "none.json") == []


@pytest.mark.parametrize("content", ["{", "[]", '{"keys": [{"id": 1}]}', '{"no": []}'])
def test_a_damaged_file_says_what_to_do(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content)
    with pytest.raises(GatewayError, match="is damaged") as refused:
        read_keys(path)
    assert "emove it" in refused.value.hint


@pytest.mark.parametrize("name", ["", "Search", "a b", "-a", "a" * 65, "a/b", "a\n"])
def test_a_client_whose_name_cannot_stand_in_a_log_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match="client"):
        record_of(new_key(), name, None, None)


def test_a_burst_needs_a_rate() -> None:
    with pytest.raises(SpecError, match="a burst without a rate"):
        record_of(new_key(), "a", None, 5)


def test_all_keys_of_a_client_share_the_newest_budget() -> None:
    first, second = new_key(), new_key()
    records = added([record_of(first, "a", 5, 5)], record_of(second, "a", 9, 20))
    plain = {digest(first): first, digest(second): second}
    [client] = clients(records, plain)
    assert client.keys == (first, second)
    assert client.budget is not None
    assert (client.budget.requests_per_s, client.budget.burst) == (9, 20)
    assert {record.burst for record in records} == {20}


def test_one_key_or_all_of_a_client_are_revoked() -> None:
    records = [record_of(new_key(), client, None, None) for client in ("a", "a", "b")]
    assert revoked(records, records[0].id) == records[1:]
    assert revoked(records, "a") == records[2:]
    with pytest.raises(GatewayError, match="no key and no client 'c'"):
        revoked(records, "c")


def test_a_key_that_no_file_holds_disturbs_no_other() -> None:
    kept, gone = new_key(), new_key()
    records = [record_of(kept, "a", None, None), record_of(gone, "b", None, None)]
    plain = {digest(kept): kept}
    assert [client.name for client in clients(records, plain)] == ["a"]
    assert plain_keys(None) == {}


def test_a_budget_of_tokens_belongs_to_all_keys_of_a_client_and_needs_no_budget_of_requests() -> None:
    first, second = new_key(), new_key()
    records = added([record_of(first, "a", 5, None)], record_of(second, "a", None, None, 1000))
    assert [(each.requests_per_s, each.tokens_per_minute) for each in records] == [(None, 1000), (None, 1000)]
    [client] = clients(records, {digest(key): key for key in (first, second)})
    assert (client.budget, client.tokens_per_minute) == (None, 1000)
