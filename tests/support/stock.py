"""A handler as TorchServe's documentation writes them."""

STOCK_HANDLER = '''
class Stock:
    """A handler as TorchServe's documentation writes them: decoded JSON in, one bad item fails the batch."""

    def initialize(self, context):
        self.factor = 3

    def handle(self, data, context):
        return [{"y": item["body"]["x"] * self.factor} for item in data]
'''
