"""Rectified flow at the GPU setting with a small network, on the pairs of a flow that is known."""

from __future__ import annotations

from specimen import unet

from gmbook.experiments.rectified_flow import PairBatches
from gmbook.papers.flow_matching import FlowMatching
from gmbook.papers.rectified_flow import RectifiedFlow

SHAPE = (1, 8, 8)


def pairs(seed: int, size: int) -> PairBatches:
    """Pairs of the flow dx/dt = tanh x. (An untrained network's field is 0, and so is every gradient on its pairs.)"""
    return PairBatches(FlowMatching(lambda x, t, y: x.tanh(), SHAPE), 64, 1, size=size, seed=seed, chunk=16)


SMALL = {"rectified_flow": ("mnist", lambda: RectifiedFlow(unet(), SHAPE), pairs)}
