"""What the experiments on images share: batches with labels, ways to see pixels, and the networks for CIFAR-10."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from gmbook import data
from gmbook.data.batches import Batches, mirror
from gmbook.networks.guided import Guided
from gmbook.networks.unet import UNet
from gmbook.train.device import device

CLASSES = 10


def image_batches(
    images: data.ImageSet,
    seed: int,
    size: int,
    flip: bool = False,
    transform: Callable[[Tensor, int], Tensor] = data.scale,
) -> Iterable[tuple[Tensor, ...]]:
    """Endless (x, y): x (B, C, H, W) in [−1, 1], y (B,). `flip` mirrors half of the images; `transform` maps (pixels,
    levels) to what the model sees."""
    seen = lambda x: transform(x, images.levels)  # noqa: E731
    return Batches(
        images.x, images.y, size=size, seed=seed, device=device(), transform=seen, augment=mirror if flip else None
    )


def centred(x: Tensor, levels: int = 256) -> Tensor:
    """2(x + u)/levels − 1 with u uniform: uint8 in 0..levels-1 -> (−1, 1), any shape. Bits per dimension: offset
    log₂ levels − 1, 7 for 256."""
    return 2 * data.dequantise(x, levels) - 1


def pixels(x: Tensor, levels: int = 256) -> Tensor:
    """The grey level that x was dequantised from, in [−1, 1] again: any shape."""
    return data.scale(data.quantise((x + 1) / 2, levels), levels)


def balanced(n: int) -> Tensor:
    """n labels in order, as many of each class as of any other, up to one."""
    return (torch.arange(n) * CLASSES).div(n, rounding_mode="floor")


def guided(model: Any, scale: float) -> Any:
    """The same model with its network under classifier-free guidance of scale s; shares the weights."""
    return model.with_network(Guided(model.net, scale, CLASSES))


def live_net(images: data.ImageSet, views: int = 1) -> UNet:
    """A network for some seconds of live training on whatever images are there: 28×28 MNIST or the 8×8 digits.

    Args:
        views: pictures of each channel that the network is shown.
    """
    channels, size, _ = images.shape
    patch = max(1, size // 14)
    return UNet(views * channels, channels, width=16, multipliers=(1, 2), classes=CLASSES, patch=patch)


def cifar10_net() -> UNet:
    """32×32 in colour seen as 16×16 patches: MNIST's small network with three channels, 0.79 M weights. A try-out."""
    return UNet(3, width=32, multipliers=(1, 2), classes=CLASSES, drop=0.1, patch=2)


def cifar10_gpu_net() -> UNet:
    """32×32: the paper's width 128, multipliers 1, 2, 2, 2, two blocks, attention at 16×16 and dropout 0.1, and labels:
    38 M weights."""
    multipliers = (1, 2, 2, 2)
    return UNet(3, width=128, multipliers=multipliers, blocks=2, attention=(1,), classes=CLASSES, drop=0.1, dropout=0.1)
