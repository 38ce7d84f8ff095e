"""One rollout from its start to its end: journal, runner, effects."""
