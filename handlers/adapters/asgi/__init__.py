"""An HTTP server for one archive: one process accepts requests under uvicorn, and workers compute their batches."""
