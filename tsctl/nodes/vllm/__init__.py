"""Nodes of vLLM."""
