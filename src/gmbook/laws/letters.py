"""A law of letters whose every conditional is known: a Markov chain fitted to a text, and so an exact network for it.

What `laws.pairs` is for two tokens, this is for a line of text: whatever letters are hidden, the law of each hidden one
given those that show is a sum over all fillings, which the chain's structure makes short (forward-backward). Used to
part a sampler's error from a network's: with this network, all that is wrong is the sampler. (The same idea, with
another chain: arXiv:2602.19619.)
"""

from __future__ import annotations

import torch
from torch import Tensor


class LetterChain:
    """p(x) = Π_l p(x^l | the k letters before), of order k, at any length.

    The first letters are drawn with the shorter contexts that they have. `posterior` has a network's signature:
    `MDLM(chain.posterior, (length,), vocab)` needs no training. Memory B·L·V^k.

    Args:
        tables: the conditionals of order 0, 1, …, k: (V,), (V, V), …, (V,)*(k + 1), the last axis the next letter.

    Raises:
        ValueError: a table has the wrong shape or does not sum to 1.
    """

    def __init__(self, tables: list[Tensor]):
        vocab = len(tables[0])
        for order, table in enumerate(tables):
            sums = table.sum(-1)
            if table.shape != (vocab,) * (order + 1) or not torch.allclose(sums, torch.ones_like(sums)):
                raise ValueError(
                    f"the table of order {order} must be a law on its last axis, of shape (V,) * {order + 1}"
                )
        self.tables, self.vocab, self.order = [table.double() for table in tables], vocab, len(tables) - 1

    @classmethod
    def fit(cls, tokens: Tensor, order: int = 2, vocab: int = 27, prior: float = 5.0) -> LetterChain:
        """Count, and smooth each context's shares towards the next shorter context's, down to uniform.

        p_k(v | c) = (n(cv) + prior · p_{k−1}(v | c without its first letter)) / (n(c) + prior), so that nothing is 0.

        Args:
            tokens: (N,) integers in 0..vocab − 1.
            order: k.
            prior: how many letters the shorter context's opinion counts for.
        """
        tables: list[Tensor] = []
        below = torch.full((vocab,), 1 / vocab, dtype=torch.float64)
        for k in range(order + 1):
            grams = tokens.long().unfold(0, k + 1, 1)  # (N − k, k + 1)
            place = vocab ** torch.arange(k, -1, -1)
            counts = torch.bincount((grams * place).sum(1), minlength=vocab ** (k + 1)).double()
            counts = counts.reshape((vocab,) * (k + 1))
            tables.append((counts + prior * below) / (counts.sum(-1, keepdim=True) + prior))
            below = tables[-1].expand((vocab,) * (k + 2))
        return cls(tables)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), nats, by the chain rule: (B, L) -> (B,)."""
        total = torch.zeros(len(x), dtype=torch.float64)
        for l in range(x.shape[1]):
            k = min(l, self.order)
            total = total + self.tables[k][tuple(x[:, l - k : l + 1].T)].log()
        return total

    def sample(self, n: int, length: int) -> Tensor:
        """n draws from left to right: (n, length) int64."""
        x = torch.empty(n, 0, dtype=torch.int64)
        for l in range(length):
            k = min(l, self.order)
            law = self.tables[k][tuple(x[:, l - k :].T)].expand(n, -1)
            x = torch.cat([x, torch.multinomial(law, 1)], 1)
        return x

    def posterior(self, xt: Tensor, t: Tensor | None = None, y: Tensor | None = None) -> Tensor:
        """log p(x^l = v | the letters that show) for every l: (B, L) with masks V -> (B, L, V). Reads neither t nor y.

        Forward-backward over the last k letters: two sweeps over the line, each step a product with the table.

        Raises:
            ValueError: the line is shorter than the order.
        """
        batch, length = xt.shape
        if length < self.order:
            raise ValueError(f"a chain of order {self.order} needs lines of at least as many letters, got {length}")
        shown = torch.nn.functional.one_hot(xt, self.vocab + 1)[..., : self.vocab].double()
        likelihood = torch.where((xt == self.vocab)[..., None], 1.0, shown)  # (B, L, V)
        last, states = max(self.order, 1), (batch, self.vocab, -1)  # a state is (oldest letter, the others)
        table = self.tables[-1].reshape(self.vocab, -1, self.vocab) if self.order else self.tables[0][None, None]
        table = table.expand(self.vocab, -1, -1)

        forward = torch.ones(batch, 1, dtype=torch.float64)
        for l in range(last):  # the first letters, one more axis each
            opening = self.tables[min(l, self.order)].reshape(-1, self.vocab)
            forward = (forward[..., None] * opening * likelihood[:, l, None]).flatten(1)
        sweep = [forward / forward.sum(1, keepdim=True)]
        for l in range(last, length):
            state = torch.einsum("nar,arc->nrc", sweep[-1].reshape(states), table) * likelihood[:, l, None]
            sweep.append((state / state.sum((1, 2), keepdim=True)).flatten(1))
        backward, beliefs = torch.ones_like(sweep[-1]), [sweep[-1]]
        for l in range(length - 1, last - 1, -1):
            ahead = backward.reshape(batch, -1, self.vocab) * likelihood[:, l, None]
            backward = torch.einsum("nrc,arc->nar", ahead, table).flatten(1)
            backward = backward / backward.sum(1, keepdim=True)
            beliefs.append(sweep[l - last] * backward)
        beliefs.reverse()  # of the states that end at last − 1, …, L − 1

        first = beliefs[0].reshape(batch, 1, *(self.vocab,) * last)  # the axis of length 1: some axis must be summed
        laws = [first.movedim(l + 2, 1).flatten(2).sum(2) for l in range(last)]
        laws += [belief.reshape(batch, -1, self.vocab).sum(1) for belief in beliefs[1:]]
        law = torch.stack(laws, 1)
        return (law / law.sum(-1, keepdim=True)).log()
