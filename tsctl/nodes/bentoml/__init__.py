"""Nodes of BentoML."""
