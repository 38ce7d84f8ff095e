"""TorchServe's own BaseHandler, as its documentation writes handlers."""

from network import Network
from ts.torch_handler.base_handler import BaseHandler


class StockHandler(BaseHandler):
    """One request of JSON per item."""

    def initialize(self, context):
        """Load the network from the archive's folder."""
        threads = context.model_yaml_config["handler"]["threads"]
        self.network = Network(context.system_properties["model_dir"], threads)
        self.initialized = True

    def handle(self, data, context):
        """Answer a batch."""
        task = self.network.task
        features = [task.feature(item.get("data") or item.get("body")) for item in data]
        return [task.answer(numbers) for numbers in self.network.predict(features)]
