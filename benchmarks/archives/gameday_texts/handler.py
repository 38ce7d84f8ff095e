"""The storyteller behind the handler of language models."""

from storyteller import Storyteller

from handlers.text_generation import TextGenerationHandler


class StoryHandler(TextGenerationHandler):
    """A backend of the archive's own."""

    def load(self) -> None:
        self.backend = Storyteller(self.generation.context, self.settings)
