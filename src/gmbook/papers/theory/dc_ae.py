"""DC-AE in closed form: tokens and operations by counting, what shortcuts carry, and where they add no function."""

from __future__ import annotations

import torch
from torch import Tensor

from gmbook.papers.dc_ae import Up, duplicate_up


def tokens(height: int, width: int, factor: int, patch: int = 1) -> int:
    """N = HW/(fp)², the tokens that a transformer of patch p sees in the latents (dcae-tokens)."""
    return height // (factor * patch) * (width // (factor * patch))


def block_flops(n: int, width: int) -> int:
    """4N²d + 24Nd², the operations of one transformer block on N tokens of width d (dcae-flops).

    Attention's two products; then 8Nd² for its projections and 16Nd² for an MLP of four times the width.
    """
    return 4 * n**2 * width + 24 * n * width**2


def gain(n: int, width: int, times: float) -> float:
    """(N + 6d)/(N/s + 6d) · s, the operations of a block on N tokens over those on N/s, s = `times` (dcae-gain).

    Between s, where the width dominates, and s², where attention's square does.
    """
    return times * (n + 6 * width) / (n / times + 6 * width)


def kept_energy(correlations: Tensor) -> Tensor:
    """E‖Px‖²/E‖x‖² = (1/g²) Σ_ab ρ_ab, the share of a picture that one halving's shortcut keeps (dcae-energy).

    For pixels of equal variance: P puts the mean of each group of g pixels in the place of all g, and the mean's
    variance is the mean of the group's covariances. 1/g for white noise, 1 for a constant picture.

    Shapes: the correlations ρ between the pixels of a group (g, g) -> ().
    """
    return correlations.mean()


def folded(block: Up) -> Up:
    """The same map without a shortcut: C2S(conv(z)) + C2S(Dup(z)) = C2S(conv′(z)) (dcae-fold).

    Dup is a convolution with one tap, 1 in the centre, for each of its output channels; conv′ has it added to its
    weights. So the decoder's shortcuts change where training begins, and not which maps there are.

    Raises:
        ValueError: the block has no shortcut.
    """
    if not block.shortcut:
        raise ValueError("the block has no shortcut to be folded into its convolution")
    channels = block.conv.in_channels
    plain = Up(channels, block.out, block.factor, shortcut=False).to(block.conv.weight)
    with torch.no_grad():
        plain.load_state_dict(block.state_dict())
        units = torch.eye(channels).to(plain.conv.weight)[:, :, None, None]  # the k-th picture is 1 in channel k
        taps = torch.nn.functional.pixel_unshuffle(duplicate_up(units, block.out, block.factor), block.factor)
        plain.conv.weight[:, :, 1, 1] += taps[:, :, 0, 0].T
    return plain
