"""A node: one process that accepts requests for many versions, each with workers that run its archive's own code."""
