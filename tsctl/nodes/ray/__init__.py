"""Ray clusters, whose applications of Ray Serve are versions."""
