"""Reads the gateway's own files."""

from __future__ import annotations

import json
from pathlib import Path

from tsctl.errors import GatewayError
from tsctl.host.files import Json


def read_document(path: Path) -> Json | None:
    """The file's content, None where there is none.

    Raises:
        GatewayError: it is not JSON.
    """
    try:
        content: Json = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise GatewayError(
            f"{path} is damaged: {error}", "Remove it; 'tsctl gateway start' writes it anew, without what it held."
        ) from None
    return content
