"""D3PM on pairs of tokens."""

from __future__ import annotations

from gmbook.core.chains import Chain
from gmbook.experiments.toys import VOCAB, own_sampler, token_net, tokens
from gmbook.papers.d3pm import D3PM


def model() -> D3PM:
    """Uniform noise in a hundred steps."""
    return D3PM(token_net(VOCAB), (2,), Chain.uniform(VOCAB), steps=100)


EXPERIMENTS = (tokens("d3pm", model, 2500, own_sampler),)
