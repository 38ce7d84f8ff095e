"""What the workers of a node measured, read and exported."""
