"""SEDD on pairs of tokens."""

from __future__ import annotations

from gmbook.core.chains import Chain
from gmbook.experiments.toys import VOCAB, token_net, tokens
from gmbook.papers.sedd import SEDD


def model() -> SEDD:
    """With a mask, and ratios scaled as in the paper's code."""
    return SEDD(token_net(VOCAB + 1), (2,), Chain.absorbing(VOCAB), scaled=True)


EXPERIMENTS = (tokens("sedd", model, 2500, lambda m, n: m.sample(n, steps=100)),)
