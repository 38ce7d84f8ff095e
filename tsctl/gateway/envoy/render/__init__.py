"""From deployment, nodes, traffic and keys to what Envoy reads: JSON documents, one for each file. Pure."""

from tsctl.gateway.envoy.render.clusters import clusters, endpoints, upstream_lua
from tsctl.gateway.envoy.render.inputs import Client, Endpoint, Places, Probe, Upstream, cluster_name, stat_name
from tsctl.gateway.envoy.render.listeners import BUCKETS_MS, bootstrap, certificate, settings, whole
from tsctl.gateway.envoy.render.routes import ready, routes, traffic_of
from tsctl.gateway.envoy.render.words import BY_WEIGHT, KEY_HEADER, NAMESPACE, REQUEST_MS, REQUESTS, Json, document

__all__ = [
    "BUCKETS_MS", "BY_WEIGHT", "KEY_HEADER", "NAMESPACE", "REQUESTS", "REQUEST_MS", "Client", "Endpoint", "Json",
    "Places", "Probe", "Upstream", "bootstrap", "certificate", "cluster_name", "clusters", "document", "endpoints",
    "ready", "routes", "settings", "stat_name", "traffic_of", "upstream_lua", "whole",
]  # fmt: skip
