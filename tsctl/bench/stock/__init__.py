"""What the benchmarks compare with: archives, a server and loops as people write them without tsctl."""
