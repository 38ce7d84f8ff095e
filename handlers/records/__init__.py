"""Prediction records: who is sampled, what a record says, and how it comes to the disk (docs/records.md)."""
