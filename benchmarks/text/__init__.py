"""Streams of a language model, measured: users served at once, how evenly tokens come, what breaks a stream."""
