"""From deployment, nodes, traffic and keys to what Envoy reads: JSON documents, one for each file. Pure."""
