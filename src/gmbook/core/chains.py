"""Markov chains on tokens: kernels, posteriors and rates of the discrete diffusions D3PM, SEDD and MDLM.

Time runs from data (t = 0) to noise (t = 1); tokens jump independently of each other. A moment of the chain is named
by alpha_bar = ᾱ(t), a number that falls from 1 at the data (see `core.schedules`), so chains know no schedule.

**Tokens.** Data are 0..V−1, V = `vocab`. A chain with an extra mask token has it last: its index is V, and
`states` = V + 1. So a network embeds `states` tokens and emits V numbers per position: the mask is never predicted.

Matrices act on row vectors, x_t = x_s Q, and rows sum to 1. Probabilities are float64.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmbook.core.checks import readable


def categorical(probabilities: Tensor) -> Tensor:
    """One draw per row of unnormalised finite weights with a positive sum, (..., V) -> (...), int64.

    An exponential race argmax_v p_v/E_v (the Gumbel trick), in float64: in float32 the largest Gumbel is 16.6, so
    that small probabilities are never drawn (mdlm-float32-race), which sharpens the samples (Zheng et al. 2024,
    arXiv:2409.02908).

    Raises:
        ValueError: a row is no law: it holds NaN, an infinity or a negative weight, or zeros only.
    """
    total, least = probabilities.sum(-1), probabilities.amin(-1)
    if not bool(((total > 0) & (total < torch.inf) & (least >= 0)).all()):
        raise ValueError(
            "cannot draw: a row of probabilities is not finite, has a negative entry or sums to 0; has the network "
            "gone to NaN?"
        )
    race = torch.empty_like(probabilities, dtype=torch.float64).exponential_()
    return (probabilities / race).argmax(-1)


class MarkovChain(nn.Module, ABC):
    """Kernels of a token chain, from any moment alpha_bar_s to any later one alpha_bar_t ≤ alpha_bar_s.

    Moments are () or (B,), tokens (B, *S) for any event shape S, written (B, L) below, and laws (B, *S, states); a law
    on the data tokens alone, (B, *S, V), is padded.
    """

    stationary: Tensor  # (states,), float64
    vocab: int

    @property
    def states(self) -> int:
        """The number of tokens, the mask included."""
        return len(self.stationary)

    @abstractmethod
    def transition(self, x: Tensor, alpha_bar_t: Tensor, alpha_bar_s: Tensor | float = 1.0) -> Tensor:
        """q(x_t = · | x_s = x) for tokens x (B, L); for weights w, Σ_v w_v q(x_t = · | x_s = v): (B, L, states)."""

    @abstractmethod
    def arrival(self, x: Tensor, alpha_bar_t: Tensor, alpha_bar_s: Tensor | float = 1.0) -> Tensor:
        """q(x_t = x | x_s = ·), the likelihood of every origin: (B, L) -> (B, L, states)."""

    @abstractmethod
    def corrupt(self, x: Tensor, alpha_bar: Tensor) -> Tensor:
        """One draw of x_t given x_0 = x: (B, L) -> (B, L)."""

    def law(self, x: Tensor) -> Tensor:
        """Tokens as one-hot rows, weights padded to all states: (B, L) or (B, L, V or states) -> (B, L, states)."""
        if not x.is_floating_point():
            return F.one_hot(x, self.states).double()
        return F.pad(x.double(), (0, self.states - x.shape[-1]))

    def posterior(self, xt: Tensor, x0: Tensor, alpha_bar_s: Tensor, alpha_bar_t: Tensor) -> Tensor:
        """q(x_s | x_t, x_0) ∝ q(x_t | x_s) q(x_s | x_0): (B, L, states). arXiv:2107.03006, Eq. 3 (d3pm-posterior).

        With probabilities p̃ for x_0 this is the *joint* form, ∝ Σ_v q(x_s, x_t | v) p̃(v), Eq. 4
        (d3pm-joint-form): its ideal p̃ is the leave-one-out law, not q(x_0 | x_t). See `mixture`.
        A pair (x_t, x_0) that the chain cannot produce has no posterior: NaN.
        """
        weights = self.arrival(xt, alpha_bar_t, alpha_bar_s) * self.transition(x0, alpha_bar_s)
        return weights / weights.sum(-1, keepdim=True)

    def mixture(self, xt: Tensor, x0: Tensor, alpha_bar_s: Tensor, alpha_bar_t: Tensor) -> Tensor:
        """Σ_v q(x_s | x_t, x_0 = v) p̃(v) for probabilities p̃, (B, L, V) -> (B, L, states) (d3pm-mixture-form).

        Its ideal p̃ is q(x_0 | x_t). Origins v that cannot lead to x_t are left out. As q(x_s | x_t, v) is
        q(x_t | x_s) q(x_s | v)/q(x_t | v), one product with p̃(v)/q(x_t | v) does it: no (V, V) table.
        """
        likelihood = self.arrival(xt, alpha_bar_t)
        possible = likelihood > 0
        origins = torch.where(possible, self.law(x0) / torch.where(possible, likelihood, 1.0), 0.0)
        weights = self.arrival(xt, alpha_bar_t, alpha_bar_s) * self.transition(origins, alpha_bar_s)
        return weights / weights.sum(-1, keepdim=True)

    def kernel_matrix(self, alpha_bar_s: Tensor | float, alpha_bar_t: Tensor | float) -> Tensor:
        """Q with entries q(x_t = w | x_s = v), rows v, columns w: (states, states), float64, for two scalar moments."""
        every = torch.arange(self.states, device=self.stationary.device)[None]  # one sequence of all tokens
        return self.transition(every, torch.as_tensor(alpha_bar_t, dtype=torch.float64), alpha_bar_s)[0]

    def posterior_matrices(self, alpha_bar_s: Tensor | float, alpha_bar_t: Tensor | float) -> Tensor:
        """q(x_s = u | x_t = w, x_0 = v) as one matrix for each w, rows v, columns u: (states, V, states), float64.

        is Q_s[v, u] Q_t|s[u, w]/Q_t[v, w] (d3pm-posterior). A pair (w, v) that the chain cannot produce is NaN.
        D3PM's step from x_t = w, given p̃(x_0), is p̃ times the w-th matrix (d3pm-mixture-form).
        """
        first = self.kernel_matrix(1.0, alpha_bar_s)[: self.vocab]  # (V, states), from x_0 to x_s
        joint = first * self.kernel_matrix(alpha_bar_s, alpha_bar_t).T[:, None]  # (x_t, x_0, x_s)
        return joint / joint.sum(-1, keepdim=True)

    def prior(self, alpha_bar: Tensor) -> Tensor:
        """The law of x_t when the data tokens are uniform, () or (B,) -> (..., states); reverse chains start there.

        It is `stationary` when alpha_bar = 0. When a schedule ends at alpha_bar > 0, an absorbing chain's δ_mask would
        make the bound's prior term infinite; this law makes it alpha_bar · log V a token.
        """
        uniform = torch.full(
            (alpha_bar.numel(), 1, self.vocab), 1 / self.vocab, dtype=torch.float64, device=alpha_bar.device
        )
        return self.transition(uniform, alpha_bar)[:, 0].reshape(*alpha_bar.shape, self.states)


def _column(alpha_bar: Tensor | float, like: Tensor) -> Tensor:
    """alpha_bar, () or (B,), as float64 (1 or B, 1, …, 1), to multiply laws of tokens `like`, or laws like it."""
    axes = like.ndim - 1 if like.is_floating_point() else like.ndim  # tokens (B, *S) have laws (B, *S, states)
    return torch.as_tensor(alpha_bar, dtype=torch.float64, device=like.device).reshape(-1, *[1] * axes)


def _kept(alpha_bar_t: Tensor | float, alpha_bar_s: Tensor | float, like: Tensor) -> Tensor:
    """ᾱ_t/ᾱ_s, the probability of no jump from s to t: (1 or B, 1, …, 1). 1 at equal moments, at ᾱ = 0 too: no time.

    Raises:
        ValueError: t comes before s.
    """
    after, before = _column(alpha_bar_t, like), _column(alpha_bar_s, like)
    if readable(after) and bool((after > before * (1 + 1e-9)).any()):
        raise _exchanged()
    return torch.where(after == before, 1.0, after / before)


def _exchanged() -> ValueError:
    return ValueError("a chain goes from s to a later t, so alpha_bar_t <= alpha_bar_s: are the two moments exchanged?")


class Chain(MarkovChain):
    """Tokens that jump to a stationary law π: q(x_t | x_s) = k δ_{x_s} + (1 − k) π, k = ᾱ_t/ᾱ_s (d3pm-marginal).

    π uniform is D3PM's and SEDD's uniform chain; π on the mask is D3PM's absorbing chain, SEDD-absorb and MDLM.
    In continuous time dp/dt = σ(t) p (1πᵀ − I), with ᾱ = e^{−σ̄}.

    Args:
        stationary: π, (states,).
        vocab: V, the number of data tokens, by default all states. (The absorbing state of D3PM's images is a grey
            value, not an extra token: a one-hot `stationary` with the default `vocab`.)

    Raises:
        ValueError: π is not a probability vector, or vocab is out of range.
    """

    def __init__(self, stationary: Tensor, vocab: int | None = None):
        super().__init__()
        stationary = stationary.double()
        if stationary.ndim != 1 or bool((stationary < 0).any()) or abs(float(stationary.sum()) - 1) > 1e-6:
            raise ValueError("stationary must be a probability vector (states,): non-negative, with sum 1")
        self.vocab = len(stationary) if vocab is None else vocab
        if not 1 <= self.vocab <= len(stationary):
            raise ValueError(f"vocab must lie in 1..{len(stationary)}, the number of states, got {vocab}")
        self.register_buffer("stationary", stationary / stationary.sum(), persistent=False)

    @classmethod
    def uniform(cls, vocab: int) -> Chain:
        """π = 1/V on the V data tokens."""
        return cls(torch.full((vocab,), 1 / vocab, dtype=torch.float64))

    @classmethod
    def absorbing(cls, vocab: int) -> Chain:
        """π on an extra mask token with index V = vocab."""
        return cls(F.one_hot(torch.tensor(vocab), vocab + 1), vocab)

    def extra_repr(self) -> str:
        return f"states={self.states}, vocab={self.vocab}"

    def transition(self, x: Tensor, alpha_bar_t: Tensor, alpha_bar_s: Tensor | float = 1.0) -> Tensor:
        ratio = _kept(alpha_bar_t, alpha_bar_s, x)
        weights = self.law(x)
        return ratio * weights + (1 - ratio) * weights.sum(-1, keepdim=True) * self.stationary

    def arrival(self, x: Tensor, alpha_bar_t: Tensor, alpha_bar_s: Tensor | float = 1.0) -> Tensor:
        ratio = _kept(alpha_bar_t, alpha_bar_s, x)
        return ratio * self.law(x) + (1 - ratio) * self.stationary[x][..., None]

    def corrupt(self, x: Tensor, alpha_bar: Tensor) -> Tensor:
        jumps = torch.multinomial(self.stationary, x.numel(), replacement=True).reshape(x.shape)
        stays = torch.rand(x.shape, dtype=torch.float64, device=x.device) < _column(alpha_bar, x)[..., 0]
        return torch.where(stays, x, jumps)

    def departure_rates(self, x: Tensor) -> Tensor:
        """The generator's rows at unit noise rate, π_y − δ_{xy}, from x to every y: (B, L) -> (B, L, states)."""
        return self.stationary - self.law(x)

    def arrival_rates(self, x: Tensor) -> Tensor:
        """The generator's columns at unit noise rate, π_x − δ_{xy}, from every y to x: (B, L) -> (B, L, states).

        SEDD's Q(x, y): the reverse chain leaves x for y at the rate s_y σ(t) times this (sedd-reverse-rate).
        """
        return self.stationary[x][..., None] - self.law(x)

    def undo(self, scores: Tensor, alpha_bar_t: Tensor, alpha_bar_s: Tensor) -> Tensor:
        """w Q⁻¹ for weights w (B, L, states) and Q the kernel from alpha_bar_s to alpha_bar_t: (w − (1 − k) Σw π)/k.

        e^{−ΔσQ} s of SEDD's Tweedie step, for both chains (sedd-tweedie).
        """
        ratio = _kept(alpha_bar_t, alpha_bar_s, scores)
        return (scores - (1 - ratio) * scores.sum(-1, keepdim=True) * self.stationary) / ratio


def _beside(index: Tensor, x: Tensor) -> Tensor:
    """(1 or B,) as (1 or B, 1, …, 1), beside tokens x (B, *S): so rows alone are read, not whole tables."""
    return index.reshape(-1, *[1] * (x.ndim - 1))


class MatrixChain(MarkovChain):
    """A chain given by its tables Q_1..Q_T, rows and columns summing to 1, hence uniform in the end.

    Its moment i is named ᾱ = 1 − i/T, which `LinearSchedule` gives at t = i/T; other schedules run the same tables
    at another pace, as long as they hit these levels. Cumulative products are taken in float64. Memory is 2TV²
    float64 numbers: 1 GB for T = 1000, V = 256.

    Args:
        matrices: (T, V, V), rows from, columns to.

    Raises:
        ValueError: a table is not doubly stochastic; or, later, alpha_bar does not name a level.
    """

    matrices: Tensor
    cumulative: Tensor

    def __init__(self, matrices: Tensor):
        super().__init__()
        matrices = matrices.double()
        sums = torch.cat([matrices.sum(-1), matrices.sum(-2)])
        if bool((matrices < 0).any()) or float((sums - 1).abs().max()) > 1e-8:
            raise ValueError(
                "matrices (T, V, V) must be doubly stochastic: no negative entry, rows and columns sum to 1"
            )
        self.vocab = matrices.shape[-1]
        products = [torch.eye(self.vocab, dtype=torch.float64, device=matrices.device)]
        for matrix in matrices:
            products.append(products[-1] @ matrix)
        self.register_buffer("matrices", matrices, persistent=False)
        self.register_buffer("cumulative", torch.stack(products), persistent=False)  # (T + 1, V, V), Q̄_i
        self.register_buffer("stationary", torch.full_like(matrices[0, 0], 1 / self.vocab), persistent=False)

    def extra_repr(self) -> str:
        return f"states={self.states}, steps={len(self.matrices)}"

    def level(self, alpha_bar: Tensor | float) -> Tensor:
        """i = (1 − alpha_bar) T, () or (B,) int64."""
        position = (1 - torch.as_tensor(alpha_bar, dtype=torch.float64, device=self.stationary.device)) * len(
            self.matrices
        )
        level = position.round()
        if bool(((position - level).abs() > 1e-2).any()):
            raise ValueError(
                f"this chain exists at alpha_bar = 1 - i/{len(self.matrices)} only: use LinearSchedule() "
                f"and a number of steps that divides {len(self.matrices)}"
            )
        return level.long()

    def kernel(self, alpha_bar_t: Tensor | float, alpha_bar_s: Tensor | float = 1.0) -> Tensor:
        """Q_{i+1} ⋯ Q_j from level i (alpha_bar_s) to level j (alpha_bar_t): (1 or B, V, V)."""
        tables, which = self._tables(alpha_bar_t, alpha_bar_s)
        return tables[which]

    def _tables(self, alpha_bar_t: Tensor | float, alpha_bar_s: Tensor | float) -> tuple[Tensor, Tensor]:
        """Some kernels (N, V, V), and which of them leads from each alpha_bar_s to its alpha_bar_t: (1 or B,)."""
        start, end = torch.broadcast_tensors(self.level(alpha_bar_s), self.level(alpha_bar_t))
        if bool((end < start).any()):
            raise _exchanged()
        if not bool(start.any()):
            return self.cumulative, end.reshape(-1)
        if bool((end == start + 1).all()):
            return self.matrices, start.reshape(-1)
        pairs, index = torch.unique(torch.stack([start, end], -1).reshape(-1, 2), dim=0, return_inverse=True)
        products = [reduce(torch.matmul, self.matrices[i:j], self.cumulative[0]) for i, j in pairs.tolist()]
        return torch.stack(products), index

    def transition(self, x: Tensor, alpha_bar_t: Tensor, alpha_bar_s: Tensor | float = 1.0) -> Tensor:
        tables, which = self._tables(alpha_bar_t, alpha_bar_s)
        if x.is_floating_point():
            law = self.law(x)
            return (law.flatten(1, -2) @ tables[which]).reshape(len(law), *law.shape[1:])
        return tables[_beside(which, x), x]

    def arrival(self, x: Tensor, alpha_bar_t: Tensor, alpha_bar_s: Tensor | float = 1.0) -> Tensor:
        tables, which = self._tables(alpha_bar_t, alpha_bar_s)
        return tables.mT[_beside(which, x), x]

    def corrupt(self, x: Tensor, alpha_bar: Tensor) -> Tensor:
        return categorical(self.transition(x, alpha_bar))
