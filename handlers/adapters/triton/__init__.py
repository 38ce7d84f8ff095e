"""Triton's python backend around the worker: an unpacked archive as one model of a model repository."""
