"""Autoregression: the chain rule with a causal network. Exact likelihoods, to stand beside token chains' bounds."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gmbook.core.chains import categorical
from gmbook.core.checks import check_count
from gmbook.core.model import Model, sampling
from gmbook.core.tokens import Network, check_emitted, check_tokens


class Autoregressive(Model):
    """p(x) = Π_l p(x^l | x^1, …, x^{l−1}), each factor read from one causal network.

    The network reads the tokens shifted by one, behind a start token with index V. So it embeds V + 1 tokens and emits
    V numbers per position, as the network of a masked diffusion does: the two differ in nothing but causality.

    Args:
        net: logits (tokens (B, l) in 0..V, t (B,), y) -> (B, l, V) for every l <= L. Position i must read tokens
            0..i only; if it reads on, `log_prob` is no log-probability. It is given t = 0.
        shape: (L,).
        vocab: V.

    Raises:
        ValueError: shape is not (L,).
    """

    def __init__(self, net: Network, shape: tuple[int, ...], vocab: int):
        super().__init__()
        if len(shape) != 1:
            raise ValueError(f"shape must be (L,), one axis of tokens, got {tuple(shape)}")
        self.net, self.shape, self.vocab = net, tuple(shape), vocab

    def forward(self, tokens: Tensor, y: Tensor | None = None) -> Tensor:
        """Logits of the token at each position given those before it: (B, l) -> (B, l, V). The last token is not read.

        Raises:
            ValueError: the network's output has another shape.
        """
        read = F.pad(tokens[:, :-1], (1, 0), value=self.vocab)
        logits = self.net(read, torch.zeros(len(read), device=read.device), self.labels(y, len(read)))
        return check_emitted(logits, tokens, self.vocab, "start")

    def log_prob(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """log p(x) = Σ_l log p(x^l | x^{<l}), exact, in one network call: (B, L) -> (B,), nats (mdlm-chain-rule).

        Raises:
            TypeError, ValueError: x is no batch of tokens.
        """
        check_tokens(x, self.shape, self.vocab)
        return -F.cross_entropy(self(x, y).mT, x, reduction="none").sum(-1)

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """−log p(x) / L, the mean over the batch: (), nats per token."""
        return -self.log_prob(x, y).mean() / x.shape[1]

    @sampling
    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """n samples, (n, L), from left to right: L network calls, each on all that is there so far."""
        check_count("n", n)
        x = torch.empty(n, 0, dtype=torch.int64, device=self.device)
        for _ in range(self.shape[0]):
            logits = self(F.pad(x, (0, 1)), y)[:, -1]  # the padding is not read
            x = torch.cat([x, categorical(logits.double().softmax(-1))[:, None]], 1)
        return x
