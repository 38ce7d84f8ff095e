"""`tsctl plan` and `tsctl apply`: deployment.yaml against what nodes and Envoy do, and making the two equal."""
