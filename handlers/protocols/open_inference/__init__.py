"""The Open Inference Protocol, version 2, as KServe, Triton and their clients speak it.

An infer request becomes one request for each row, and the outcomes of the rows become its response (`rows.py`,
`response.py`). Its bytes are JSON, JSON followed by tensors in binary (`request.py`), or one ModelInferRequest of
protocol buffers (`messages.py`). `metadata.py` says what a model takes and gives. Nothing here knows a server.
"""

from handlers.protocols.open_inference.metadata import ModelMetadata, describe_model, server_metadata
from handlers.protocols.open_inference.response import fold
from handlers.protocols.open_inference.rows import Fields, InferRows, fields_of, read_infer

__all__ = [
    "Fields",
    "InferRows",
    "ModelMetadata",
    "describe_model",
    "fields_of",
    "fold",
    "read_infer",
    "server_metadata",
]
