"""Envoy in front of the nodes: what it is configured with, its process, and every change of traffic."""
