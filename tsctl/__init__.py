"""The world outside the worker: specs, archives, nodes and the management API; never imports torch or ts."""

__version__ = "0.1.0"
