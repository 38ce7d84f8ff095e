"""tsctl against a real API server of Kubernetes 1.20 (`make test-kubernetes`)."""
