"""What a rollout would see, before it begins: from recent traffic, and simulated."""
