"""Several gateways of one deployment, which take numbered generations from a place that all of them read."""
