"""Envoy in front of the nodes: its configuration, its processes, and changes of traffic."""
