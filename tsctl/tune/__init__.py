"""Searches the settings of an archive: few trials under load, and the best one proved against the present settings."""
