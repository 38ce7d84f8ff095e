"""The benchmarks' own runs on real nodes: workloads and game days, `make test-workloads`."""
