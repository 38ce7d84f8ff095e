"""The first two networks of MTCNN: layers, names and shapes are those of its usual weights."""

import torch
from torch import nn


class PNet(nn.Module):
    """Probabilities (B, 2, h, w) and box corrections (B, 4, h, w) for windows of 12 x 12 pixels, every second pixel."""

    def __init__(self):
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 10, 3), nn.PReLU(10)
        self.pool1 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.conv2, self.prelu2 = nn.Conv2d(10, 16, 3), nn.PReLU(16)
        self.conv3, self.prelu3 = nn.Conv2d(16, 32, 3), nn.PReLU(32)
        self.conv4_1, self.conv4_2 = nn.Conv2d(32, 2, 1), nn.Conv2d(32, 4, 1)

    def features(self, pixels):
        hidden = self.pool1(self.prelu1(self.conv1(pixels)))
        return self.prelu3(self.conv3(self.prelu2(self.conv2(hidden))))

    def forward(self, pixels):
        hidden = self.features(pixels)
        return self.conv4_1(hidden).softmax(dim=1), self.conv4_2(hidden)


class RNet(nn.Module):
    """Probabilities (B, 2) and box corrections (B, 4) for windows of 24 x 24 pixels."""

    def __init__(self):
        super().__init__()
        self.conv1, self.prelu1 = nn.Conv2d(3, 28, 3), nn.PReLU(28)
        self.pool1 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv2, self.prelu2 = nn.Conv2d(28, 48, 3), nn.PReLU(48)
        self.pool2 = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.conv3, self.prelu3 = nn.Conv2d(48, 64, 2), nn.PReLU(64)
        self.dense4, self.prelu4 = nn.Linear(576, 128), nn.PReLU(128)
        self.dense5_1, self.dense5_2 = nn.Linear(128, 2), nn.Linear(128, 4)

    def features(self, pixels):
        hidden = self.pool1(self.prelu1(self.conv1(pixels)))
        hidden = self.prelu3(self.conv3(self.pool2(self.prelu2(self.conv2(hidden)))))
        return self.prelu4(self.dense4(hidden.permute(0, 3, 2, 1).flatten(1)))

    def forward(self, pixels):
        hidden = self.features(pixels)
        return self.dense5_1(hidden).softmax(dim=1), self.dense5_2(hidden)


def corrected(boxes: torch.Tensor, changes: torch.Tensor) -> torch.Tensor:
    """Boxes (N, 4), moved by shares of their sizes."""
    size = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return boxes + changes * size
