"""Reads, compacts and removes the prediction records of nodes (docs/records.md)."""
