"""Flow matching, small: what stands in for the GPU budget's network on the CPU."""

from specimen import unet

from gmbook import data
from gmbook.experiments.images import centred, image_batches
from gmbook.papers.flow_matching import FlowMatching

SMALL = {
    "flow_matching": (
        "cifar10",
        lambda: FlowMatching(unet(), (1, 8, 8)),
        lambda seed, size: image_batches(data.digits("train"), seed, size, True, centred),
    )
}
