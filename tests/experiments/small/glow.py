"""Glow, small: what stands in for the GPU budget's network on the CPU."""

from gmbook import data
from gmbook.data import ImageSet
from gmbook.experiments import glow
from gmbook.papers.glow import Glow


def bright(images: ImageSet) -> ImageSet:
    """17 grey levels on 0..255: Glow reduces bytes to grey levels itself."""
    return ImageSet(images.x * 15, images.y, images.name, images.split, images.classes)


SMALL = {
    "glow": (
        "mnist",
        lambda: Glow.on_images((1, 8, 8), 2, 1, 8, classes=10),
        lambda seed, size: glow.batches(bright(data.digits("train")), seed, size),
    )
}
