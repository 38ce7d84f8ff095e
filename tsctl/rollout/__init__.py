"""Releases that are judged while they run."""
