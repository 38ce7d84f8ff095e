"""A worker's life, whatever server holds it: load, self-test, warm-up, answer."""
