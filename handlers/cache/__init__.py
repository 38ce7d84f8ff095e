"""The response cache: keys, the tier in a worker's memory, the tier that workers share."""
