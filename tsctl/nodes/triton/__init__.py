"""Nodes of Triton."""
