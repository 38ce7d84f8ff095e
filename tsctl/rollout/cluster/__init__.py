"""Rollouts on a cluster: the same decisions, on HTTPRoutes, pods and the workers' own counters."""
