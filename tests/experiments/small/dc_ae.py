"""DC-AE, small: what stands in for the GPU budget's network on the CPU."""

from gmbook import data
from gmbook.experiments import images
from gmbook.papers.dc_ae import DCAE

SMALL = {
    "dc_ae": (
        "cifar10",
        lambda: DCAE((1, 8, 8), 8, (8, 16, 16), (0, 1, 1), attention=2, head=8),
        lambda seed, size: images.image_batches(data.digits("train"), seed, size),
    )
}
