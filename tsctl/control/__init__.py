"""The place that machines share for control: create-only objects, leases, and where deployment.yaml names it."""
