"""Addresses are printed, logged and written without their secrets."""

from __future__ import annotations

import pytest

from tsctl.addresses import has_secret, without_secrets
from tsctl.control.open import open_place
from tsctl.control.redis_place import open_redis
from tsctl.errors import TsctlError


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("redis://c:6379/0", "redis://c:6379/0"),
        ("redis://c:6379/?db=3&protocol=3", "redis://c:6379/?db=3&protocol=3"),
        ("redis://me:hunter2@c:6379/0", "redis://***@c:6379/0"),
        ("redis://:hunter2/#@2@c:6379/0", "redis://***@c:6379/0"),
        ("redis://c:6379/0?db=1&password=hunter2", "redis://c:6379/0?db=1&password=***"),
        ("redis://c:6379/0?PASSWORD=hunter2&username=hunter2", "redis://c:6379/0?PASSWORD=***&username=***"),
        ("https://AKIA:hunter2@minio.example.com", "https://***@minio.example.com"),
        ("https://b.example.com/x?X-Amz-Signature=hunter2", "https://b.example.com/x?X-Amz-Signature=***"),
        ("/mnt/shared/tsctl", "/mnt/shared/tsctl"),
        ("no connection to 'http://a:hunter2@b' or http://c", "no connection to 'http://***@b' or http://c"),
    ],
)
def test_an_address_is_shown_without_its_secrets(address: str, shown: str) -> None:
    assert without_secrets(address) == shown
    assert has_secret(address) == (shown != address)
    assert has_secret({"client": [{"url": address}]}) == (shown != address)


@pytest.mark.parametrize("address", ["redis://c:1/0?password=hunter2", "redis://u:hunter2@c:1/0"])
def test_the_place_of_control_is_shown_without_its_password(address: str) -> None:
    assert "hunter2" not in open_redis(address).address
    with pytest.raises(TsctlError) as caught:
        open_place(address.replace("redis", "rediz"))
    assert "hunter2" not in caught.value.message
