"""What people write, and where a project's files are: the schema of every YAML file, paths, weights."""
