"""Envoy: its configuration, its process, its supervisor, and its administration interface."""
