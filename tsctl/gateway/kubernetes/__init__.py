"""The gateway of a cluster: `HTTPRoute` objects that carry the same traffic as Envoy's files."""
