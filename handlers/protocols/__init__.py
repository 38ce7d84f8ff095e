"""Protocols of request bodies and answers."""
