"""Compares a shadow's answers with stable's: pairs, comparators, the noise floor, slices, labels. Pure."""
