"""What is measured: a node, a fleet behind a gateway, uvicorn; each is started, asked at its address and stopped."""
