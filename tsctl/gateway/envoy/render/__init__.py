"""From deployment, nodes, traffic and keys to what Envoy reads: JSON documents, one for each file. Pure."""

from tsctl.gateway.envoy.render.answers import ready
from tsctl.gateway.envoy.render.clients import keys_in
from tsctl.gateway.envoy.render.clusters import clusters, endpoints
from tsctl.gateway.envoy.render.inputs import Client, Endpoint, Places, Probe, Upstream, cluster_name, stat_name
from tsctl.gateway.envoy.render.listeners import bootstrap, certificate, settings, whole
from tsctl.gateway.envoy.render.routes import routes, traffic_of

__all__ = [
    "Client", "Endpoint", "Places", "Probe", "Upstream", "bootstrap", "certificate", "cluster_name", "clusters",
    "endpoints", "keys_in", "ready", "routes", "settings", "stat_name", "traffic_of", "whole",
]  # fmt: skip
