"""Files for other systems, rendered from `deployment.yaml` and archives."""
