"""Opens a place by its address; the packages of Redis and S3 are imported only for their addresses."""

from __future__ import annotations

from urllib.parse import urlsplit

from tsctl.addresses import without_secrets
from tsctl.control.folder import FolderPlace
from tsctl.control.place import Place, PlaceUnusable, check


def open_place(address: str) -> Place:
    """The place at an address, which was checked to refuse a second `create`.

    Args:
        address: an absolute path, or redis://, rediss:// or s3://bucket/prefix.

    Raises:
        PlaceUnusable, PlaceUnreachable: as they say.
    """
    try:
        urlsplit(address)
    except ValueError as error:  # the address itself may hold a password
        raise PlaceUnusable(f"control: the address cannot be read: {error}", "Correct the address.") from None
    place = _place_at(address)
    check(place)
    return place


def _place_at(address: str) -> Place:
    scheme, separator, _ = address.partition("://")
    if not separator:
        return FolderPlace(address)
    if scheme in ("redis", "rediss"):
        from tsctl.control.redis_place import open_redis

        return open_redis(address)
    if scheme == "s3":
        from tsctl.control.s3_place import open_s3

        return open_s3(address)
    raise PlaceUnusable(
        f"control: {without_secrets(address)} is no place that tsctl knows",
        "Give a folder that all machines see, redis://HOST:PORT/DB, rediss://..., or s3://BUCKET/PREFIX.",
    )
