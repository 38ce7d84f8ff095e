"""Records of a real node in an S3 bucket: moved by `tsctl records push`, read from there, and kept while S3 is down."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from handlers.record_files import record_files
from tests.support.bucket import Bucket, a_bucket
from tests.support.ports import free_ports
from tests.support.recording import ask_node
from tests.support.sites import Site, make_site, until, write_tiny

BUCKET = "records"


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with a_bucket(BUCKET) as made:
        yield made


@pytest.fixture
def recording(tmp_path: Path, bucket: Bucket) -> Iterator[Site]:
    """A node that records every request; its records are shared in the bucket."""
    site = make_site(tmp_path / "site")
    [port] = free_ports(1)
    content = {
        "nodes": {"local": {"engine": "uvicorn", "address": f"http://127.0.0.1:{port}"}},
        "models": {"tiny": {"default": "1.0", "versions": {"1.0": {"workers": 1}}}},
        "records": {"shared": f"s3://{BUCKET}/site"},
    }
    (site.root / "deployment.yaml").write_text(yaml.safe_dump(content))
    write_tiny(site, "tiny", {"1.0": {}}, records={"share": 1.0})
    site.environment.update(bucket.environment)
    site.run("up")
    yield site
    site.run("down")


def ask(site: Site, name: str) -> None:
    """The node answers, and writes the record."""
    ask_node(site, name)
    until(lambda: name in names(site, "--node", "local"), 30, f"the record of {name}")


def names(site: Site, *options: str) -> list[str]:
    """Request ids of all records."""
    shown = site.run("records", "query", "SELECT request_id FROM records ORDER BY time", "--json", *options)
    return [row["request_id"] for row in shown.json()]


def end_segment(site: Site) -> None:
    """The node starts anew, so that no worker holds its segment, which is then pushed."""
    site.run("down")
    site.run("up")


def test_records_are_moved_to_s3_and_while_it_is_down_serving_goes_on_and_every_record_is_kept(
    recording: Site, bucket: Bucket
) -> None:
    ask(recording, "first")
    end_segment(recording)
    assert "1 file moved" in recording.run("records", "push").out
    [key] = bucket.names()
    assert key.startswith("site/local/records-") and key.endswith(".parquet")
    assert names(recording) == ["first"]
    assert names(recording, "--node", "local") == []

    bucket.stop()
    ask(recording, "second")
    end_segment(recording)
    for command in (("push",), ("query", "SELECT 1 FROM records")):
        failed = recording.run("records", *command, status=6)
        assert f"error: s3://{BUCKET}/site cannot be used: " in failed.err
        assert "Serving goes on without it." in failed.err
    assert "records since the node's start" in recording.run("status").out
    assert names(recording, "--node", "local") == ["second"]

    bucket.start()
    failed = recording.run("records", "push", "--to", "s3://misspelled/site", status=6)
    assert "error: s3://misspelled/site cannot be used: " in failed.err
    assert names(recording, "--node", "local") == ["second"]
    assert "1 file moved" in recording.run("records", "push").out
    assert names(recording) == ["first", "second"]
    assert record_files(recording.folder / "records") == []
    purged = recording.run("records", "purge", "--client", "nobody")
    assert f"local at s3://{BUCKET}/site: nothing was recorded of client nobody" in purged.out
