"""Manifests of a Kubernetes cluster, and their strict validation."""
