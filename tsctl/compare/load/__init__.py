"""Load on one address: a client in a process of its own, and what its answers amount to."""
