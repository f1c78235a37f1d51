"""Laws of tokens that are known by enumeration: the plane's toy laws, cut into 32 × 32 cells, as laws of two tokens.

`core.tokens.Enumeration(law.pmf, chain, schedule)` makes of such a law the exact network of every token model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gmbook.laws import plane


class TokenLaw:
    """A law of L tokens out of V, as its whole table: small V and L only, V^L entries.

    Args:
        pmf: p(x), (V,) * L, not negative; normalised here, in float64.
        name: what figures call it.

    Raises:
        ValueError: the axes differ in length, or an entry is negative, or all are zero.
    """

    def __init__(self, pmf: Tensor, name: str = "tokens"):
        if len(set(pmf.shape)) != 1 or bool((pmf < 0).any()) or not bool(pmf.sum() > 0):
            raise ValueError(f"pmf must be a table (V,) * L, not negative, with some mass, got {tuple(pmf.shape)}")
        self.pmf, self.name = pmf.double() / pmf.double().sum(), name
        self.vocab, self.shape = pmf.shape[0], (pmf.ndim,)

    def sample(self, n: int) -> Tensor:
        """n draws: (n, L) int64."""
        flat = torch.multinomial(self.pmf.flatten(), n, replacement=True)
        return torch.stack(torch.unravel_index(flat, self.pmf.shape), -1)

    def log_prob(self, tokens: Tensor) -> Tensor:
        """log p(x), nats, −∞ where the law has no mass: (B, L) int64 -> (B,).

        Raises:
            ValueError: the tokens are not (B, L) whole numbers in 0..V − 1.
        """
        self._check(tokens)
        return self.pmf.log()[tokens.unbind(1)]

    def marginals(self) -> Tensor:
        """p(x^l = v): (L, V)."""
        return torch.stack([self._alone(l) for l in range(self.pmf.ndim)])

    def conditional(self, l: int) -> Tensor:
        """p(x^l | x^{−l}) for every x: the table's shape, its sums along axis l are 1 (0 where p(x^{−l}) = 0)."""
        return (self.pmf / self.pmf.sum(l, keepdim=True)).nan_to_num(0.0)

    def entropy(self) -> float:
        """−Σ p log p, nats."""
        return torch.special.entr(self.pmf).sum().item()

    def mutual_information(self) -> float:
        """Σ_l H(x^l) − H(x) = KL(p ‖ Π_l p_l), nats: for two tokens their mutual information, for more the total
        correlation. It is what a model that draws all tokens at once, each from its own marginal, must lose."""
        return torch.special.entr(self.marginals()).sum().item() - self.entropy()

    def histogram(self, tokens: Tensor) -> Tensor:
        """The shares of tokens (n, L) in a table like `pmf`: to stand beside it, and to be given to metrics.kl, .tv.

        Raises:
            ValueError: the tokens are not (n, L) whole numbers in 0..V − 1.
        """
        self._check(tokens)
        place = self.vocab ** torch.arange(self.pmf.ndim - 1, -1, -1, device=tokens.device)
        counts = torch.bincount((tokens * place).sum(1), minlength=self.pmf.numel())
        return counts.reshape(self.pmf.shape).double() / len(tokens)

    def _alone(self, l: int) -> Tensor:
        return self.pmf.movedim(l, 0).flatten(1).sum(1) if self.pmf.ndim > 1 else self.pmf

    def _check(self, tokens: Tensor) -> None:
        shape_fits = tokens.ndim == 2 and tokens.shape[1:] == self.shape and len(tokens) > 0
        if not shape_fits or tokens.is_floating_point() or bool(((tokens < 0) | (tokens >= self.vocab)).any()):
            raise ValueError(
                f"expected tokens (n, {self.pmf.ndim}), integers in 0..{self.vocab - 1}, "
                f"got {tokens.dtype} {tuple(tokens.shape)}"
            )


def discretise(toy: plane.PlaneLaw, vocab: int = 32, limits: tuple[float, float] | None = None) -> TokenLaw:
    """The law of the cell that x ~ toy falls into, given that it falls into the square `limits`²: p (V, V).

    ∫ p(x) dx over each cell, by eight Gauss–Legendre nodes per cell and axis: relative error below 1e-8 for the laws
    of laws.plane in 32 cells. A law that jumps (the checkerboard) must jump on the cells' edges: choose `limits` so.

    Args:
        vocab: V, the cells per axis; token k stands for [low + k·width, low + (k + 1)·width).
        limits: (low, high) of both axes; by default the toy's.
    """
    low, high = limits or toy.limits
    nodes, weights = plane.legendre(8)
    axis = (low + (high - low) / vocab * (torch.arange(vocab)[:, None] + nodes)).flatten()  # (V·8,)
    points = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)
    density = plane.log_prob_on(toy, points).detach().exp().reshape(vocab, len(nodes), vocab, len(nodes))
    return TokenLaw(torch.einsum("iajb,a,b->ij", density, weights, weights), toy.name)


def eight_gaussians(vocab: int = 32) -> TokenLaw:
    """Eight blots on a circle."""
    return discretise(plane.eight_gaussians(), vocab)


def moons(vocab: int = 32) -> TokenLaw:
    """Two half circles."""
    return discretise(plane.moons(), vocab)


def rings(vocab: int = 32) -> TokenLaw:
    """Two concentric rings."""
    return discretise(plane.rings(), vocab)


def pinwheel(vocab: int = 32) -> TokenLaw:
    """Five bent arms."""
    return discretise(plane.pinwheel(), vocab)


def spiral(vocab: int = 32) -> TokenLaw:
    """One winding arm."""
    return discretise(plane.spiral(), vocab)


def checkerboard(vocab: int = 32) -> TokenLaw:
    """Uniform on the dark squares of a 4×4 board that fills the table: both marginals uniform, all else dependence.

    Raises:
        ValueError: vocab is not a multiple of 4, so that the board's edges would cut cells.
    """
    if vocab % 4:
        raise ValueError(f"the board has 4 squares to a side: vocab must be a multiple of 4, got {vocab}")
    return discretise(plane.checkerboard(), vocab, (-2.0, 2.0))


ALL = (eight_gaussians, moons, rings, pinwheel, spiral, checkerboard)
