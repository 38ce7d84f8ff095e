"""Nodes: one package per engine, and the fan-out to all of them."""
