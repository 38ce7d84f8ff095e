"""The pure core of a rollout: evidence, statistics, the verdict, and the next action."""
