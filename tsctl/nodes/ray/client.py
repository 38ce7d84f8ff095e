"""A typed client of one Ray cluster: Serve's REST API and Ray's packages, which its dashboard answers.

The applications are declared all at once, so a change reads them, changes its own and writes them all: `change` is the
only writer of this machine, and another machine must not write at the same time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import requests
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from tsctl.config.nodes import LOOPBACK
from tsctl.errors import NodeError
from tsctl.host.locks import exclusive
from tsctl.mistakes import first_mistake
from tsctl.nodes.ray.applications import Application, Config
from tsctl.nodes.session import Connection, unguarded

#: For the cluster to take a declaration: its first one starts Serve's controller and the head node's proxy.
DECLARE_TIMEOUT_S = 60.0
#: For an archive to reach the cluster.
UPLOAD_TIMEOUT_S = 300.0
#: Of which a proxy gets requests: it leaves this state when its node is lost, or has no replica any more.
HEALTHY = "HEALTHY"
_APPLICATIONS = "/api/serve/applications/"


class _Part(BaseModel):
    """A part of an answer; keys that are not named here are not read."""

    model_config = ConfigDict(extra="ignore")


class Replica(_Part):
    """A replica of a deployment."""

    replica_id: str
    state: str
    pid: int | None = None


class Deployment(_Part):
    """The replicas of an application, which has one deployment here."""

    status: str
    message: str = ""
    target_num_replicas: int
    replicas: list[Replica] = []


class Deployed(_Part):
    """An application as the cluster has it."""

    name: str
    status: str
    message: str = ""
    source: str = ""
    deployed_app_config: dict[str, Any] | None = None
    deployments: dict[str, Deployment] = {}


class Proxy(_Part):
    """Where one Ray node takes requests."""

    node_ip: str | None = None
    status: str


class Instance(_Part):
    """Serve on the cluster, as its REST API describes it."""

    proxies: dict[str, Proxy] = {}  # by Ray's id of the node
    applications: dict[str, Deployed] = {}
    http_options: dict[str, Any] | None = None  # None: Serve has not started

    @field_validator("http_options")
    @classmethod
    def _check_port(cls, options: dict[str, Any] | None) -> dict[str, Any] | None:
        if options and not isinstance(options.get("port"), int | None):
            raise ValueError("port must be a number")
        return options

    @property
    def port(self) -> int | None:
        """The port of the proxies; None before Serve has started."""
        return (self.http_options or {}).get("port") or None

    @property
    def addresses(self) -> tuple[str, ...]:
        """Addresses of the proxies that are healthy."""
        bound = str((self.http_options or {}).get("host") or "")
        if bound.startswith(LOOPBACK):  # a cluster of one machine, whose node has another address of it
            return (f"http://{bound}:{self.port}",)
        hosts = {proxy.node_ip for proxy in self.proxies.values() if proxy.status == HEALTHY and proxy.node_ip}
        return tuple(f"http://{f'[{host}]' if ':' in host else host}:{self.port}" for host in sorted(hosts))

    @property
    def ours(self) -> list[tuple[Application, Deployed]]:
        """The applications that are versions of tsctl's."""
        found = ((Application.of_config(one.deployed_app_config), one) for one in self.applications.values())
        return [(application, deployed) for application, deployed in found if application is not None]


class ServeClient:
    """Calls one cluster.

    Args:
        url: of its dashboard.
        http_options: `host` and `port` on which the proxies listen, where Serve has not started.
        lock: of this machine's changes of the cluster's applications.
        key_file: holds the token of a cluster that wants one; None: it wants none.
        read_timeout_s: for the cluster to describe its state.
        guard: called before each request.
    """

    def __init__(
        self,
        url: str,
        http_options: Mapping[str, Any],
        lock: Path,
        key_file: Path | None,
        read_timeout_s: float,
        guard: Callable[[], None] = unguarded,
    ) -> None:
        self._url, self._http_options, self._lock, self._key_file = url, http_options, lock, key_file
        self._read_timeout_s = read_timeout_s
        self._connection = Connection(guard)

    def instance(self) -> Instance:
        """The state of Serve."""
        answer = self._call("GET", _APPLICATIONS, self._read_timeout_s)
        try:
            return Instance.model_validate(json.loads(answer.content))
        except (ValueError, RecursionError) as error:
            reason = first_mistake(error) if isinstance(error, ValidationError) else str(error)
            raise NodeError(
                f"{self._url} answers in another form than Ray Serve 2.60's: {reason}",
                "Is it the address of Ray's dashboard, and is Ray as new as docs/ray.md says?",
            ) from None

    def change(self, change: Callable[[dict[str, Config]], dict[str, Config]]) -> dict[str, Config]:
        """Declare the applications that `change` makes of those that are declared, by name; what was declared.

        Applications of others stay as they are.
        """
        with exclusive(self._lock, "the applications of the Ray cluster"):
            instance = self.instance()
            declared = {
                name: one.deployed_app_config
                for name, one in instance.applications.items()
                if one.deployed_app_config is not None and one.source != "imperative" and one.status != "DELETING"
            }
            wanted = change(declared)
            options = instance.http_options or self._http_options
            content = {
                "proxy_location": "EveryNode",
                "http_options": {key: options[key] for key in ("host", "port") if key in options},
                "applications": [wanted[name] for name in sorted(wanted)],
            }
            self._call("PUT", _APPLICATIONS, DECLARE_TIMEOUT_S, content)
            return wanted

    def has_package(self, name: str) -> bool:
        """Whether the cluster has the package, which it keeps for ten minutes from now, and while it is used."""
        return self._call("GET", f"/api/packages/gcs/{name}", self._read_timeout_s, accepted=(404,)).status_code != 404

    def put_package(self, name: str, content: bytes) -> None:
        """Give the cluster a package."""
        self._call("PUT", f"/api/packages/gcs/{name}", UPLOAD_TIMEOUT_S, content)

    def _call(
        self, method: str, path: str, timeout_s: float, content: Any = None, accepted: tuple[int, ...] = ()
    ) -> requests.Response:
        headers: Mapping[str, str] = self._access()
        body = content if isinstance(content, bytes) or content is None else json.dumps(content).encode()
        if not isinstance(content, bytes) and content is not None:
            headers = {**headers, "Content-Type": "application/json"}
        answer = self._connection.send(method, self._url + path, headers, body, timeout_s)
        if answer.status_code >= 400 and answer.status_code not in accepted:
            reason = " ".join(answer.text.split())[-400:]
            is_refused = answer.status_code in (401, 403)
            hint = "Give the node a key_file with the cluster's token." if is_refused else ""
            raise NodeError(f"{method} {self._url}{path}: {answer.status_code} {reason}", hint)
        return answer

    def _access(self) -> dict[str, str]:
        if self._key_file is None:
            return {}
        try:
            return {"Authorization": f"Bearer {self._key_file.read_text(encoding='utf-8').strip()}"}
        except (OSError, UnicodeDecodeError) as error:
            raise NodeError(
                f"{self._key_file} cannot be read: {error}", "It must hold the cluster's token, and nothing else."
            ) from None
