"""Releases canaries that are bad on purpose, under load, and one that is not."""
