"""D3PM, small: what stands in for the GPU budget's network on the CPU."""

from gmbook import data
from gmbook.data.batches import Batches
from gmbook.experiments import d3pm
from gmbook.networks.token_unet import TokenUNet
from gmbook.papers.d3pm import D3PM


def model() -> D3PM:
    """The same chain and parts."""
    net = TokenUNet(1, d3pm.LEVELS, d3pm.LEVELS, width=8, multipliers=(1, 2), classes=10, patch=2)
    return D3PM(net, (1, 8, 8), d3pm.gaussian(), steps=d3pm.STEPS, hybrid=0.001)


def batches(seed: int, size: int) -> Batches:
    """8×8 digits, their 17 levels in eight."""
    digits = data.digits("train")
    return Batches(digits.x, digits.y, size=size, seed=seed, transform=lambda x: x.long().div(17 / 8).long())


SMALL = {"d3pm": ("mnist_gaussian", model, batches)}
