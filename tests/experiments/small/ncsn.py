"""NCSN, small: what stands in for the GPU budget's network on the CPU."""

from specimen import unet

from gmbook import data
from gmbook.experiments import images, ncsn

SMALL = {
    "ncsn": (
        "mnist",
        lambda: ncsn.on_images(unet(), (1, 8, 8)),
        lambda seed, size: images.image_batches(data.digits("train"), seed, size),
    )
}
