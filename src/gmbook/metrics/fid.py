"""FID, which means Inception's features and nothing else: through torchmetrics, where somebody has the weights."""

from __future__ import annotations

import os

from torch import Tensor

from gmbook import data

VARIABLE = "GMBOOK_INCEPTION"  # the file of weights; the book never downloads them by itself
FEATURES = 2048


def fid(x: Tensor, real: Tensor, batch: int = 50) -> float | str:
    """FID of samples x (N, 3, H, W) for real images (M, 3, H, W), both in [−1, 1]; or one line that says why not.

    torchmetrics computes it with the network of torch-fidelity, which asks for torchvision; that is why neither is a
    dependency of the book. The published figures take N = 50,000 samples, and the training set as reference: with fewer
    than 2,048 samples the covariance is singular and the number is mostly bias.
    """
    weights = os.environ.get(VARIABLE)
    if not weights:
        return f"not computed: needs Inception's weights, whose file {VARIABLE} names, and torchmetrics[image]"
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance

        metric = FrechetInceptionDistance(FEATURES, feature_extractor_weights_path=weights)
    except ImportError:
        return "not computed: pip install 'torchmetrics[image]', beside a torchvision that fits your torch"
    for images, is_real in ((real, True), (x, False)):
        for part in data.unscale(images).cpu().split(batch):
            metric.update(part, real=is_real)
    return float(metric.compute())
