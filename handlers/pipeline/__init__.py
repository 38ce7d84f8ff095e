"""The way of a batch from decoded requests to outcomes."""
