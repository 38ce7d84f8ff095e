"""The median of a list of numbers, by a handler as TorchServe's documentation writes them."""

from statistics import median


class MedianHandler:
    """One list per request."""

    def initialize(self, context):
        """Load a model here: its files are in context.system_properties["model_dir"]."""

    def handle(self, data, context):
        """One answer for each item of the batch; TorchServe has decoded JSON."""
        return [{"median": median(item["body"]["numbers"])} for item in data]
