"""What the server of one version knows of its archive: written by the node, read by the middleware in the server."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from handlers.protocols.openai.requests import Defaults

#: The file with the settings, in the environment of vLLM's server.
SETTINGS_VARIABLE = "TSCTL_VLLM_SETTINGS"


@dataclass(frozen=True)
class Settings:
    """One version as vLLM's server serves it."""

    model: str
    version: str
    token: str | None  # of all requests but those for health; None: everybody may ask
    max_answers: int  # in the making at once
    max_tokens: int  # of an answer whose request does not say
    most_tokens: int  # that a request may ask for
    temperature: float  # of a request that does not say; so is top_p
    top_p: float
    first_token_s: float  # an answer without a token after so long ends
    response_s: float  # so does one that is not complete
    request_bytes: int  # of the longest body
    special: tuple[str, ...]  # texts that the tokenizer takes for special tokens
    reads_tools: bool  # the chat template does

    @property
    def defaults(self) -> Defaults:
        return Defaults(self.max_tokens, self.most_tokens, self.temperature, self.top_p)

    def write(self, path: Path) -> None:
        """Write the file, readable by its owner only."""
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(asdict(self), file)


def read_settings() -> Settings:
    """The settings of this process.

    Raises:
        KeyError: it has none, because the node did not start it.
    """
    content = json.loads(Path(os.environ[SETTINGS_VARIABLE]).read_text(encoding="utf-8"))
    return Settings(**{**content, "special": tuple(content["special"])})
