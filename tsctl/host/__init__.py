"""This machine: processes, locks, files, and the progress that a person sees."""
