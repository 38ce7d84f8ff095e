"""Tests with a real vLLM: `make test-vllm`. Its environment has 2 GB, and each server loads for minutes."""
