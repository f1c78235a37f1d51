"""For the tests of token models: enumeration of a sampler's exact law, and a small network."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


def sequences(states: int, length: int) -> Tensor:
    """All sequences, in the order of a flattened (states,) * length table: (states^length, length)."""
    return torch.tensor(list(itertools.product(range(states), repeat=length)))


def outer(factors: Tensor) -> Tensor:
    """∏_l p_l(v_l) of independent tokens: (B, L, V) -> (B, V^L)."""
    table = factors[:, 0]
    for factor in factors.unbind(1)[1:]:
        table = (table[..., None] * factor[:, None]).flatten(1)
    return table


def exact_law(start: Tensor, steps: Iterable[Callable[[Tensor], Tensor]], length: int) -> Tensor:
    """The law (states^L,) of a chain that starts at independent tokens (states,) and draws each token independently,
    from step(x (B, L)) -> (B, L, states)."""
    states = sequences(len(start), length)
    law = outer(start.expand(1, length, -1))[0]
    for step in steps:
        law = law @ outer(step(states)).nan_to_num()  # NaN: rows that no chain reaches, of law 0
    return law


def random_pmf(vocab: int, length: int, seed: int = 0) -> Tensor:
    """A law (V,) * L with strong dependence, float64."""
    generator = torch.Generator().manual_seed(seed)
    pmf = torch.rand((vocab,) * length, generator=generator, dtype=torch.float64) ** 3 + 1e-3
    return pmf / pmf.sum()


def entropy(pmf: Tensor) -> Tensor:
    return -torch.xlogy(pmf, pmf).sum()


def total_variation(tokens: Tensor, pmf: Tensor) -> Tensor:
    """½ Σ|histogram − pmf| of tokens (n, L)."""
    base = torch.tensor([pmf.shape[0] ** k for k in range(pmf.ndim - 1, -1, -1)])
    histogram = torch.bincount((tokens * base).sum(1), minlength=pmf.numel()) / len(tokens)
    return (histogram - pmf.flatten()).abs().sum() / 2


class TokenNet(nn.Module):
    """Embed L tokens and the time, mix them with an MLP: (B, L), (B,) -> (B, L, V)."""

    def __init__(self, states: int, vocab: int, length: int, width: int = 128):
        super().__init__()
        self.embed = nn.Embedding(states, 32)
        self.body = nn.Sequential(
            nn.Linear(32 * length + 3, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, length * vocab),
        )

    def forward(self, tokens: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        time = torch.stack([t, (3 * t).sin(), (9 * t).cos()], -1)
        features = torch.cat([self.embed(tokens).flatten(1), time], -1)
        return self.body(features).unflatten(-1, (tokens.shape[1], -1))


def train(model, batch: Callable[[], Tensor], steps: int, lr: float = 2e-3) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr)
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss(batch()).backward()
        optimizer.step()
