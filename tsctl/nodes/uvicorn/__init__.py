"""Serving without TorchServe: one accepting process under uvicorn, and the workers of one archive."""
