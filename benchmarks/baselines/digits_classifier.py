"""digits under TorchServe's own image_classifier: its decoding, torchvision's transforms and its answer."""

from digits_handler import StockDigits
from torchvision import transforms
from ts.torch_handler.image_classifier import ImageClassifier


class StockDigitsClassifier(ImageClassifier):
    """One picture per request; all ten classes, the likeliest first."""

    topk = 10
    image_processing = transforms.Compose([transforms.Grayscale(), transforms.Resize((8, 8)), transforms.ToTensor()])

    def initialize(self, context):
        StockDigits.initialize(self, context)
        self.mapping = None
