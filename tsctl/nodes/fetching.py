"""Writes for a node of our own server how it pulls an archive that is not in its store (docs/store.md).

Invariant: the credentials that the command needs are in a file that only its owner may read, and not in the environment
of the node, which its workers inherit.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tsctl.config.deployment import read_deployment, variables_of
from tsctl.config.project import PROJECT_VARIABLE, Project
from tsctl.host.files import write_document
from tsctl.host.process import inherited

FILE = "fetch.json"
#: The variables by which file systems find credentials and endpoints, and the way to them.
_PREFIXES = ("AWS_", "AZURE_", "FSSPEC_", "GCLOUD_", "GCS_", "GOOGLE_", "S3_", "SSL_", "REQUESTS_CA_BUNDLE", "CURL_CA_")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")


def fetch_arguments(project: Project, folder: Path) -> list[str]:
    """The arguments of a node with this folder that let it pull; none where deployment.yaml names no store.

    Raises:
        SpecError: deployment.yaml has mistakes.
    """
    path = folder / FILE
    if not project.deployment.is_file() or read_deployment(project.deployment).store is None:
        path.unlink(missing_ok=True)
        return []
    needed = {name: value for name, value in os.environ.items() if name.startswith(_PREFIXES) or _is_proxy(name)}
    environment = {
        **inherited(os.environ), **needed, **variables_of(project.deployment), PROJECT_VARIABLE: str(project.root),
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
    }  # fmt: skip
    command = [sys.executable, "-m", "tsctl.cli.main", "archive", "pull"]
    write_document(path, {"command": command, "environment": environment})
    return ["--fetch", str(path)]


def _is_proxy(name: str) -> bool:
    return name.lower() in _PROXIES
