"""The place that machines share for control: create-only objects, and leases."""
