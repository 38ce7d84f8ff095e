"""Measurements that are compared inside one run; they take time and assert nothing."""
