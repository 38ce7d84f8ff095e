"""Captured requests: taken from the records of inputs, and sent again."""
