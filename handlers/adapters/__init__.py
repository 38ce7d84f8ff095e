"""One package for each server that can hold a worker; the only place that knows the server."""
