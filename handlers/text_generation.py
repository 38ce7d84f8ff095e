"""Text generation: chats and texts by a language model, whose backend computes many answers at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from handlers.contract import JSON
from handlers.errors import DoesNotFit
from handlers.own_comparator import ComparesAnswers
from handlers.protocols.openai.requests import Asked, Defaults
from handlers.telemetry.metrics import Telemetry
from handlers.text.backend import Backend
from handlers.text.backends import BackendOptions, ModelFiles, open_backend
from handlers.text.backends.chat import reads_tools
from handlers.text.options import GenerationOptions

#: The folder of an archive in which its recipe may put the weights as the openvino backend reads them in a second.
CONVERTED = "converted"


class TextGenerationHandler(ComparesAnswers):
    """Answers requests of the OpenAI API, `/chat/completions` and `/completions`.

    Derive from it to change how messages become a prompt (`chat_prompt`), which requests are answered (`check`) or
    what a request gets that says nothing (`defaults`). The worker (handlers/worker/text.py) sets the attributes and
    calls `load` once, and the other methods for each request, in several threads at a time.
    """

    is_generative: ClassVar[bool] = True
    media_types: ClassVar[Sequence[str]] = (JSON,)

    model: str
    version: str
    model_dir: Path  # the unpacked archive
    weights_file: Path
    settings: dict[str, Any]  # from archive.yaml
    generation: GenerationOptions  # the section `generation` of archive.yaml
    threads: int
    device: str  # "cpu", or "cuda:0" for the GPU that the server gave this worker
    is_exact: bool  # archive.yaml has `dtype: float32`: an answer must not depend on its neighbours
    backend: Backend
    telemetry: Telemetry = Telemetry()

    def load(self) -> None:
        """Open the backend.

        Raises:
            LoadError: it is not installed, or cannot read the model.
        """
        options = self.generation
        converted = self.model_dir / CONVERTED
        files = ModelFiles(
            self.weights_file,
            None if options.chat_template is None else self.model_dir / options.chat_template,
            converted if converted.is_dir() else None,
        )
        self.backend = open_backend(
            options.backend,
            files,
            BackendOptions(
                context=options.context,
                cache_bytes=options.cache_mb << 20,
                device=self.device,
                threads=self.threads,
                is_exact=self.is_exact,
                most_running=options.max_answers,
            ),
        )

    # ---- for each request --------------------------------------------------------------------------------------------

    def defaults(self) -> Defaults:
        """What a request gets that says nothing, and the most tokens that it may ask for."""
        options = self.generation
        return Defaults(options.max_tokens, options.most_tokens, options.temperature, options.top_p)

    def check(self, asked: Asked, headers: Mapping[str, str]) -> Asked:
        """The request as it is answered; by default as it came.

        Args:
            headers: of the request, names in lower case.

        Raises:
            RequestError: it is not answered.
        """
        return asked

    def chat_prompt(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[int]:
        """The tokens of a chat, with the beginning of the answer; by default by the chat template.

        Raises:
            ValueError: the messages make no prompt; the client reads the words.
        """
        return self.backend.encode_chat(messages, tools)

    def reads_tools(self) -> bool:
        """Whether tools change a chat's prompt; asked once, after `load`. Where they do not, they are refused."""
        return reads_tools(self.chat_prompt)

    def text_prompt(self, text: str) -> list[int]:
        """The tokens of a text that is to be continued."""
        return self.backend.encode(text)

    def prompts(self, asked: Asked) -> list[list[int]]:
        """The tokens of each prompt of a request.

        Raises:
            DoesNotFit: the messages make no prompt.
        """
        if asked.messages is None:
            return [self.text_prompt(text) for text in asked.prompts]
        try:
            return [self.chat_prompt(asked.messages, asked.tools)]
        except ValueError as error:
            raise DoesNotFit(
                f"The messages make no prompt: {error}.", [{"field": "messages", "message": "make no prompt"}]
            ) from None

    # ---- for the records ---------------------------------------------------------------------------------------------

    def redact(self, content: Mapping[str, Any]) -> Any:
        """The body of a request as it may be kept where `records.input_days` is set; None keeps nothing.

        Return a copy: the request may still be in the making.
        """
        return content
