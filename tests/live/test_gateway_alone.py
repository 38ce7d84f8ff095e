"""The gateway before nodes that are not there: how it starts, who keeps it, what it tells, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.live.conftest import TINY, make_site, processes_of
from tests.live.test_gateway import Front, with_gateway


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    """A project whose gateway and node were never started."""
    site = make_site(tmp_path / "site")
    site.deploy(TINY)
    yield Front(site, *with_gateway(site, {}), key="")
    site.run("gateway", "stop")
    assert processes_of(site.root) == [], "processes are left behind"


def test_without_a_route_it_is_alive_and_not_ready(front: Front) -> None:
    front.site.run("gateway", "start")
    assert requests.get(f"{front.base}/healthz", timeout=5).status_code == 200
    for path in ("/readyz", "/v2/health/ready"):
        assert requests.get(front.base + path, timeout=5).status_code == 503
    assert "the gateway is not ready: no model has a route" in front.site.run("gateway", "status", status=5).err


def test_what_it_will_do_is_not_told_as_what_it_does(front: Front) -> None:
    shown = front.site.run("weights", "show")
    assert "the gateway does not run; this is what it starts with" in shown.err
    assert "no model has a route yet" in shown.out
    front.site.run("gateway", "start")
    assert front.site.run("weights", "show").err == ""
    unknown = front.site.run("weights", "show", "nobody", status=5)
    assert "no route for model 'nobody'\n       There are none." in unknown.err


def test_a_key_that_cannot_be_written_is_given_to_nobody(front: Front) -> None:
    site = front.site
    (site.root / "folder").mkdir()
    for name, reason in (("nowhere/key", "No such file or directory"), ("folder", "Is a directory")):
        refused = site.run("keys", "add", "a", "--header-file", name, status=2)
        assert refused.err == f"error: --header-file {name} cannot be written: {reason}\n"
    assert site.run("keys", "list", "--json").json() == []
    assert "is in key" in site.run("keys", "add", "a", "--header-file", "key").out
    assert (site.root / "key").read_text().startswith("x-api-key: tsctl_")
    assert (site.root / "key").stat().st_mode & 0o777 == 0o600
    assert [one["client"] for one in site.run("keys", "list", "--json").json()] == ["a"]
