"""Score SDE, small: what stands in for the GPU budget's network on the CPU."""

from gmbook import data
from gmbook.experiments.images import centred, image_batches
from gmbook.experiments.score_sde import on_images
from gmbook.networks.unet import UNet

NET = {"width": 8, "multipliers": (1, 2), "attention": (1,), "classes": 10, "drop": 0.1, "dropout": 0.1}

SMALL = {
    "score_sde": (
        "mnist",
        lambda: on_images(UNet(5, 1, **NET), (1, 8, 8)),
        lambda seed, size: image_batches(data.digits("train"), seed, size, transform=centred),
    )
}
