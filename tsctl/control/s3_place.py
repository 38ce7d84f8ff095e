"""A bucket of S3 as a place: an object is written by a PUT on the condition that the key has none.

The condition is the header `If-None-Match: *`, which Amazon S3 honours since 2024, with reads that see every write
that was answered. A service that ignores the header is found out by `place.check`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from tsctl.addresses import without_secrets
from tsctl.control.place import AlreadyThere, PlaceUnreachable, PlaceUnusable, is_name, require_name, require_small

#: Seconds for a connection, and for an answer.
CONNECT_S, ANSWER_S = 4.0, 10.0
#: Of the service's errors, those that only a person can end.
_UNUSABLE = {
    *("AccessDenied", "AllAccessDisabled", "ExpiredToken", "Forbidden", "InvalidAccessKeyId", "InvalidBucketName"),
    *("InvalidToken", "NoSuchBucket", "NotImplemented", "PermanentRedirect", "SignatureDoesNotMatch", "301", "400"),
    *("401", "403", "501", "MethodNotAllowed"),
}
_TAKEN = {"PreconditionFailed", "412"}


class S3Place:
    """The keys of a bucket below a prefix.

    Args:
        client: of boto3, which repeats nothing by itself: a PUT that was repeated would be refused as taken.
        prefix: without a slash at its end; may be empty.
    """

    def __init__(self, client: Any, bucket: str, prefix: str) -> None:
        self.address = f"s3://{bucket}/{prefix}".rstrip("/")
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""

    def create(self, name: str, content: bytes) -> None:
        require_name(name)
        require_small(name, content)
        with self._errors(name):
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=content, IfNoneMatch="*")

    def read(self, name: str) -> bytes | None:
        require_name(name)
        with self._errors(name):
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)
            except self._client.exceptions.NoSuchKey:
                return None
            content: bytes = answer["Body"].read()
            return content

    def names(self, prefix: str) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2")
        with self._errors(prefix):
            found = [
                entry["Key"].removeprefix(self._prefix)
                for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + prefix)
                for entry in page.get("Contents", ())
            ]
        return sorted(filter(is_name, found))

    def delete(self, name: str) -> None:
        require_name(name)
        with self._errors(name):
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + name)

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            ConnectionError,
            HTTPClientError,
            NoCredentialsError,
        )

        try:
            yield
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in _TAKEN:
                raise AlreadyThere(name) from None
            message = f"control: {self.address} refuses: {code} {error.response['Error'].get('Message', '')}".rstrip()
            if code in _UNUSABLE:
                raise PlaceUnusable(
                    message, "Correct the address or the credentials; the bucket must exist, and be writable."
                ) from None
            raise PlaceUnreachable(message, "Run this again.") from None
        except (HTTPClientError, ConnectionError, OSError) as error:
            server = without_secrets(self._client.meta.endpoint_url)
            raise PlaceUnreachable(
                f"control: {self.address} at {server} does not answer: {type(error).__name__}",
                "Can it be reached from here? AWS_ENDPOINT_URL names another server.",
            ) from None
        except NoCredentialsError:
            raise PlaceUnusable(
                f"control: no credentials for {self.address}", "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            ) from None
        except BotoCoreError as error:
            raise PlaceUnusable(
                f"control: {self.address} cannot be used: {without_secrets(str(error))}", "Correct the address."
            ) from None


def open_s3(address: str) -> S3Place:
    """The place at s3://bucket/prefix; nothing is asked. The environment has credentials, region and endpoint.

    Raises:
        PlaceUnusable: the package boto3 is missing, or the address has no bucket.
    """
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError:
        raise PlaceUnusable(
            "control: an address of S3 needs the package boto3", "pip install 'tsctl[control]'"
        ) from None
    parts = urlsplit(address)
    if not parts.netloc or "@" in parts.netloc:
        raise PlaceUnusable(
            "control: an address of S3 is s3://BUCKET/PREFIX, without a user", "Credentials are in the environment."
        )
    config = Config(
        connect_timeout=CONNECT_S, read_timeout=ANSWER_S, retries={"total_max_attempts": 1, "mode": "standard"}
    )
    try:
        client = boto3.client("s3", config=config)
    except (BotoCoreError, ValueError) as error:
        raise PlaceUnusable(
            f"control: S3 cannot be used: {without_secrets(str(error))}", "Set AWS_DEFAULT_REGION, for example."
        ) from None
    return S3Place(client, parts.netloc, parts.path.strip("/"))
