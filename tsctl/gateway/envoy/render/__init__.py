"""From deployment, nodes, traffic and keys to what Envoy reads: JSON documents, one for each file. Pure."""

from tsctl.gateway.envoy.render.clients import Client, keys_in
from tsctl.gateway.envoy.render.clusters import clusters, upstreams_of
from tsctl.gateway.envoy.render.listeners import bootstrap, certificate, settings, whole
from tsctl.gateway.envoy.render.routes import ready, routes, traffic_of
from tsctl.gateway.envoy.render.upstreams import (
    Endpoint,
    Probe,
    Upstream,
    VersionKey,
    cluster_name,
    endpoints,
    endpoints_of,
    stat_name,
    with_draining,
)

__all__ = [
    "Client", "Endpoint", "Probe", "Upstream", "VersionKey", "bootstrap", "certificate", "cluster_name", "clusters",
    "endpoints", "endpoints_of", "keys_in", "ready", "routes", "settings", "stat_name", "traffic_of", "upstreams_of",
    "whole", "with_draining",
]  # fmt: skip
