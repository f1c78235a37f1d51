"""Improved DDPM, small: what stands in for the GPU budget's network on the CPU."""

from gmbook import data
from gmbook.experiments import images
from gmbook.networks.unet import UNet
from gmbook.papers.improved_ddpm import ImprovedDDPM


def net() -> UNet:
    """A small one of the same kind."""
    return UNet(1, 2, width=8, multipliers=(1, 2), classes=10, drop=0.1)


SMALL = {
    "improved_ddpm": (
        "mnist",
        lambda: ImprovedDDPM(net(), (1, 8, 8), steps=60, levels=17),
        lambda seed, size: images.image_batches(data.digits("train"), seed, size),
    )
}
