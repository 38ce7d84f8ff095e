"""What people see of a rollout: folded from its journal, told in words, shown on a terminal and on a page."""
