"""An archive as an application of Ray Serve, which `serve run`, `serve deploy` and Serve's REST API accept."""
