"""Parts of PromQL expressions. Pure."""

from __future__ import annotations

import json


def quoted(text: str) -> str:
    """The text as a string of PromQL."""
    return json.dumps(text, ensure_ascii=False)
