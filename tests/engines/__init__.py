"""Triton, BentoML and KServe's clients in all their cases: `make test-engines`. tests/live has a few cases of each."""
