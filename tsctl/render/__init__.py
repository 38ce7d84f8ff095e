"""Files for other systems that run what deployment.yaml describes."""
