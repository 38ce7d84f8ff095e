"""Statistics that rollouts, shadow comparisons and drift share. Pure, and on the standard library only."""
