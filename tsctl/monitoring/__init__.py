"""Reads and exports the metrics of a node's workers."""
