"""Improved DDPM on points in the plane; and a small model of images for the chapter's live training.

The paper, on CIFAR-10: 128 channels, three residual blocks, dropout 0.3, T = 4000 with the cosine schedule, Adam 1e-4,
batch 128, 500,000 iterations, L_hybrid with λ = 0.001. On images ours has not been trained yet.
"""

from __future__ import annotations

from gmbook import data
from gmbook.experiments.images import CLASSES
from gmbook.experiments.toys import GAUSSIANS, net, points
from gmbook.networks.unet import UNet
from gmbook.papers.improved_ddpm import ImprovedDDPM


def live(images: data.ImageSet) -> ImprovedDDPM:
    """A model for some seconds of live training on whatever images are there: 28×28 MNIST or the 8×8 digits."""
    channels, patch = images.shape[0], max(1, images.shape[1] // 14)
    net = UNet(channels, 2 * channels, width=16, multipliers=(1, 2), classes=CLASSES, patch=patch)
    return ImprovedDDPM(net, images.shape, clip=1.0, levels=images.levels)


EXPERIMENTS = (points("improved_ddpm", GAUSSIANS, lambda: ImprovedDDPM(net(4), (2,), 200), 8000),)
