"""Tokens and operations of a diffusion model on latents, by counting."""

from __future__ import annotations


def tokens(height: int, width: int, factor: int, patch: int = 1) -> int:
    """N = HW/(fp)², the tokens that a transformer of patch p sees in the latents (dcae-tokens)."""
    return height // (factor * patch) * (width // (factor * patch))


def block_flops(n: int, width: int) -> int:
    """4N²d + 24Nd², the operations of one transformer block on N tokens of width d (dcae-flops).

    Attention's two products; then 8Nd² for its projections and 16Nd² for an MLP of four times the width. Reducing N by
    f² gains at most f⁴, at large N, and at least f².
    """
    return 4 * n**2 * width + 24 * n * width**2
