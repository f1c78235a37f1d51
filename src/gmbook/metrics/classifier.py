"""A small classifier of digits: the judge of generated ones, and the features in which their distance is measured."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmbook.core.checks import check_event
from gmbook.core.model import Model


class Classifier(Model):
    """Four convolutions and two linear layers for 28×28 grey images in [−1, 1]; `features` are the 128 hidden units.

    A Fréchet distance on these features is not FID, which means Inception's, and its numbers compare with no others.
    """

    shape = (1, 28, 28)

    def __init__(self, classes: int = 10):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1),  # 14×14
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, stride=2, padding=1),  # 7×7
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(64 * 7 * 7, 128),
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Logits: (B, 1, 28, 28) -> (B, classes)."""
        check_event(x, self.shape)
        return self.head(self.body(x))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy, nats, mean over the batch: ()."""
        return F.cross_entropy(self(x), y)

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """The hidden units before their ReLU: (N, 1, 28, 28) -> (N, 128)."""
        return torch.cat([self.body(piece) for piece in x.to(self.device, self.dtype).split(500)])

    @torch.no_grad()
    def classify(self, x: Tensor) -> Tensor:
        """The likeliest class: (N, 1, 28, 28) -> (N,) int64."""
        return torch.cat([self(piece).argmax(1) for piece in x.to(self.device, self.dtype).split(500)])
