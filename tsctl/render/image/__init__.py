"""Build contexts of container images: of a node's worker, and of tsctl with the gateway."""
