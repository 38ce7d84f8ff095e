"""Kills a rollout with SIGKILL at every fault point, and checks that resuming it converges."""
