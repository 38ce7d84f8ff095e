"""A bucket of a server that speaks S3."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.ports import free_ports


class Bucket:
    """A bucket of a server that speaks S3; its content outlives the server, and all servers of this process share it.

    Args:
        name: which no other test has.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        [self.port] = free_ports(1)
        self.address = f"http://127.0.0.1:{self.port}"
        self.environment = {
            "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.address, "AWS_MAX_ATTEMPTS": "1",
        }  # fmt: skip

    def start(self) -> None:
        from moto.server import ThreadedMotoServer  # here, as boto3 below: both take long, and every process collects

        self.server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self.server.start()

    def stop(self) -> None:
        self.server.stop()

    def make(self) -> None:
        self._client.create_bucket(Bucket=self.name)

    def names(self) -> list[str]:
        """The files of the bucket."""
        found = self._client.list_objects_v2(Bucket=self.name).get("Contents", [])
        return [entry["Key"] for entry in found]

    @property
    def _client(self) -> Any:
        import boto3

        return boto3.client(
            "s3", endpoint_url=self.address, aws_access_key_id="test", aws_secret_access_key="test",
            region_name="us-east-1",
        )  # fmt: skip

    def replace(self, name: str, content: bytes) -> None:
        """Another content of a file."""
        self._client.put_object(Bucket=self.name, Key=name, Body=content)


@contextmanager
def a_bucket(name: str) -> Iterator[Bucket]:
    """The bucket, with its server, while the block runs."""
    bucket = Bucket(name)
    bucket.start()
    bucket.make()
    yield bucket
    bucket.stop()
