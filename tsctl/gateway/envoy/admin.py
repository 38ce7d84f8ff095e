"""Envoy's administration interface, over a Unix socket that only its owner may open."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tsctl.errors import GatewayError
from tsctl.gateway.envoy.messages import NAMESPACE

TIMEOUT_S = 5.0
#: The name of the routes of clients.
CLIENTS = "clients"


class NotAnswering(GatewayError):
    """Nothing answers at the socket: Envoy does not run, or has only begun to start."""


class Hangs(NotAnswering):
    """Envoy took the question, and gives no answer."""


@dataclass(frozen=True)
class Host:
    """One node of one cluster, as Envoy sees it now."""

    address: str
    is_healthy: bool
    why_not: str  # Envoy's reasons against it; empty where it is healthy
    active: int  # requests in flight


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("envoy", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Admin:
    """The administration interface of one Envoy. Methods raise NotAnswering where nothing answers."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def is_live(self) -> bool:
        """Whether Envoy runs, with its listeners open; raises Hangs where it does not answer that."""
        try:
            return self._request("GET", "/ready").strip() == b"LIVE"
        except Hangs:
            raise
        except GatewayError:
            return False

    def settings(self) -> dict[str, Any]:
        """The `render.settings` that it was started with; empty where it was started otherwise."""
        node = json.loads(self._request("GET", "/server_info"))["node"]
        return dict(node.get("metadata", {}).get(NAMESPACE, {}))

    def routes_version(self, name: str = CLIENTS) -> str | None:
        """The version of a file of routes in force; None where Envoy has none of this name.

        It is a statistic too, for which Envoy need not write out all routes and keys: a millisecond, however many.
        """
        stat = f"http.{name}.rds.{name}.version_text"  # listeners that read routes are called as their routes
        content = json.loads(self._request("GET", f"/stats?type=TextReadouts&format=json&filter={quote(stat)}"))
        return next((str(one["value"]) for one in content["stats"] if one["name"] == stat and one["value"]), None)

    def routes(self) -> dict[str, Any] | None:
        """The route configuration of clients in force."""
        dumped = (dict(one["route_config"]) for one in self._dump("dynamic_route_configs"))
        return next((one for one in dumped if one["name"] == CLIENTS), None)

    def active_clusters(self) -> set[str]:
        """The clusters that can get traffic; a cluster is none of them before its first health checks have ended."""
        return {entry["cluster"]["name"] for entry in self._dump("dynamic_active_clusters", "cluster.name")}

    def hosts(self) -> dict[str, list[Host]]:
        """Nodes of every cluster, by its name."""
        content = json.loads(self._request("GET", "/clusters?format=json"))
        return {
            cluster["name"]: [_host(host) for host in cluster.get("host_statuses", ())]
            for cluster in content.get("cluster_statuses", ())
        }

    def counters(self, pattern: str) -> Mapping[str, int]:
        """Counters and gauges whose names match the regular expression."""
        content = json.loads(self._request("GET", f"/stats?format=json&filter={quote(pattern, safe='')}"))
        return {stat["name"]: int(stat["value"]) for stat in content["stats"] if "value" in stat}

    def counter(self, name: str) -> int:
        """One counter or gauge; 0 where Envoy has none of the name."""
        return self.counters(f"^{name}$").get(name, 0)

    def page(self, pattern: str) -> str:
        """Metrics whose names match the regular expression, in Prometheus' text format."""
        return self._request("GET", f"/stats/prometheus?filter={quote(pattern, safe='')}").decode()

    def pages(self, pattern: str) -> dict[str, str]:
        """As `page`, of each Envoy that this is, by a name that a process has for itself; empty for a single one."""
        return {"": self.page(pattern)}

    def drain(self) -> None:
        """Take no new connections, and ask clients to close the present ones."""
        self._request("POST", "/healthcheck/fail")
        self._request("POST", "/drain_listeners?graceful&skip_exit")

    def reopen_logs(self) -> None:
        """Open the log files anew by their names, after they were renamed."""
        self._request("POST", "/reopen_logs")

    def _dump(self, resource: str, mask: str = "") -> list[dict[str, Any]]:
        query = f"/config_dump?resource={resource}" + (f"&mask={mask}" if mask else "")
        configs: list[dict[str, Any]] = json.loads(self._request("GET", query)).get("configs", [])
        return configs

    def _request(self, method: str, path: str) -> bytes:
        connection = _SocketConnection(self._path)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read()
        except TimeoutError:
            raise Hangs(
                f"the gateway hangs: Envoy did not answer within {TIMEOUT_S:g} s",
                "Its supervisor replaces it; without one: 'tsctl gateway stop', then 'tsctl gateway start'.",
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise NotAnswering(
                f"the gateway does not answer: {error}", "Start it with 'tsctl gateway start'."
            ) from None
        finally:
            connection.close()
        if answer.status not in (200, 503):  # /ready says 503 while Envoy starts
            raise GatewayError(f"the gateway answered {method} {path} with {answer.status}: {body[:200].decode()}")
        return body


def _host(status: Mapping[str, Any]) -> Host:
    address = status["address"].get("socket_address", {})
    health = status.get("health_status", {})
    reasons = [name for name, holds in health.items() if holds is True]
    stats = {stat["name"]: int(stat.get("value", 0)) for stat in status.get("stats", ())}
    return Host(
        address=f"{address.get('address', '')}:{address.get('port_value', '')}",
        is_healthy=not reasons and health.get("eds_health_status", "HEALTHY") == "HEALTHY",
        why_not=", ".join(name.replace("_", " ") for name in reasons),
        active=stats.get("rq_active", 0),
    )
