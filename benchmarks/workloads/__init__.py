"""What is sent to which targets, and the figures that come of it; a module for each workload."""
