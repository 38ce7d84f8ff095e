"""Requests to a site's node, past the gateway, whose names and clients its records have."""

from __future__ import annotations

import requests

from handlers.contract import CLIENT_HEADER, REQUEST_ID_HEADER
from tests.support.sites import HALF, Site
from tsctl.config.deployment import read_deployment
from tsctl.config.project import Project
from tsctl.nodes.engines import open_node


def ask_node(site: Site, name: str, client: str = "shop") -> str:
    """The node `local` answers a request of this name to `write_tiny`'s model; returns the name."""
    project = Project(site.root)
    node = open_node(project, *read_deployment(project.deployment).node("local"))
    headers = {"content-type": "application/json", REQUEST_ID_HEADER: name, CLIENT_HEADER: client}
    url = node.spec.url + node.path("tiny", "1.0")
    answer = requests.post(url, data=HALF, headers={**headers, **node.access()}, timeout=30)
    assert (answer.status_code, answer.json()) == (200, {"y": 1.0}), answer.text
    return name
