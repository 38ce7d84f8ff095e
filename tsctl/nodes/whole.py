"""Says why an engine whose workers give each answer whole serves no text model."""

from __future__ import annotations

from tsctl.archive.inspect import Facts


def unfit_text(facts: Facts, server: str) -> str:
    """The reason where the archive generates text; empty for any other."""
    if not facts.is_text:
        return ""
    return (
        f"it generates text, and a worker behind {server} gives each answer whole: use the engine uvicorn, torchserve"
        " or vllm"
    )
