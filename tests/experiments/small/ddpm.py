"""DDPM, small: what stands in for the GPU budget's network on the CPU."""

from specimen import unet

from gmbook import data
from gmbook.experiments import images
from gmbook.papers.ddpm import DDPM

SMALL = {
    "ddpm": (
        "mnist",
        lambda: DDPM(unet(), (1, 8, 8), steps=60, levels=17),
        lambda seed, size: images.image_batches(data.digits("train"), seed, size),
    )
}
