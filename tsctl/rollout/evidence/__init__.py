"""Where a rollout's evidence is read, and how counts become windows of evidence."""
