"""Prints what an archive's model takes and gives, as JSON; runs in the folder of the unpacked archive.

The handler loads the model, because some make their schema of the archive's settings then. Inputs are the fields of its
request, and outputs those of the golden answers. `required` and `json_outputs` name the inputs that a client must send,
and the outputs that are JSON texts.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from handlers.protocols.open_inference.metadata import describe_model, json_outputs
from handlers.unpacked import read_documents
from handlers.worker.config import handler_class, read_config
from handlers.worker.worker import Worker


def main() -> None:
    """Print the metadata of the archive in this folder."""
    folder = Path.cwd()
    manifest, content = read_documents(folder)
    config = read_config(folder, manifest, content)
    handler = Worker(handler_class(config.handler)(), config).handler
    handler.load()
    answers = json.loads((folder / "golden.json").read_text(encoding="utf-8"))
    known = list(answers.values())
    metadata = describe_model(config.model, [config.version], handler.Request, known)
    required = handler.Request.model_json_schema().get("required", [])
    sys.stdout.write(json.dumps({**metadata, "required": required, "json_outputs": json_outputs(known)}))


if __name__ == "__main__":
    main()
