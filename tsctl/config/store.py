"""The schema of `store` in `deployment.yaml`: the place from which all machines pull archives."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from tsctl.config.spec import SpecModel

#: Of all pulled archives on one machine, where deployment.yaml does not say.
CACHE_MB = 20_480
#: Schemes of addresses that begin with a bucket or a host.
_HOSTED = {"http", "https", "s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss"}


def _plain(address: str) -> str:
    parts = urlsplit(address)
    if "@" in parts.netloc:
        raise ValueError("must name no user and no secret: give them as `options`, or in the environment")
    if len(parts.scheme) > 1 and (parts.query or parts.fragment):
        raise ValueError("must end with a path, without ? and #")
    if parts.scheme in _HOSTED and not parts.netloc:
        raise ValueError("must name a bucket or a host, such as s3://bucket/archives")
    return address.rstrip("/") or "/"


class StoreSpec(SpecModel):
    """The place from which archives are pulled, by digest; one text is its address. See docs/store.md."""

    #: A folder, relative to the project, or an address of HTTP or that fsspec knows, such as s3://bucket/archives.
    address: Annotated[str, StringConstraints(min_length=1), AfterValidator(_plain)]
    #: Of all pulled archives on this machine; those that nothing needs leave, the longest unused first.
    cache_mb: Annotated[int, Field(ge=1, le=1 << 24)] = CACHE_MB
    #: Of the file system, such as `key`, `secret` and `endpoint_url` of S3; of HTTP, `headers`.
    options: dict[str, Any] = {}


def _as_section(content: Any) -> Any:
    return {"address": content} if isinstance(content, str) else content


#: The section, or its address alone.
Store = Annotated[StoreSpec, BeforeValidator(_as_section, json_schema_input_type=str | StoreSpec)]
