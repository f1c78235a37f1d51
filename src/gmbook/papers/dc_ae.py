"""Deep Compression Autoencoder for Efficient High-Resolution Diffusion Models. Chen, Cai, Chen, Xie, Yang, Tang, Li,
Lu, Han, ICLR 2025, arXiv:2410.10733. With the attention of EfficientViT (Cai et al. 2023, arXiv:2205.14756).

A deterministic autoencoder of high spatial compression f, for `LatentDiffusion`. Two ideas: every down- and upsampling
block learns the residual to a shortcut without parameters, space-to-channel and an average or a duplication of
channels; and three training phases, each of which moves other parameters. Losses and adversary are those of `vqgan`.

Where this departs from the authors' code: one normalisation (theirs of the deep stages) and SiLU at all depths, where
their decoder has BatchNorm and ReLU in its shallow stages. So an example's code does not depend on its neighbours.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gmbook.core.model import Objective
from gmbook.networks.efficientvit import ChannelNorm, EfficientViTBlock, ResBlock
from gmbook.papers.vqgan import Adversary, Autoencoder, Perceptual

# ------------------------------------------------------------------------------------------- residual autoencoding


def average_down(x: Tensor, channels: int, factor: int = 2) -> Tensor:
    """The encoder's shortcut: space to channel, then the mean over groups of f²C/C' neighbouring channels (dcae-down).

    S2C(x)_{cf²+if+j, u, v} = x_{c, fu+i, fv+j}. With C' = C the groups are f×f patches and this is average pooling;
    with C' = 2C at f = 2 they are pairs (j = 0, 1), so pixels side by side are averaged and rows are kept.

    Shapes: (B, C, H, W) -> (B, C', H/f, W/f), C' = `channels`.

    Raises:
        ValueError: the sides are not divisible by f, or C' does not divide f²C.
    """
    if x.shape[2] % factor or x.shape[3] % factor or x.shape[1] * factor**2 % channels:
        raise ValueError(
            f"cannot average {tuple(x.shape[1:])} down by {factor} to {channels} channels: {factor} must divide the "
            f"sides, and {channels} must divide {x.shape[1] * factor**2} channels"
        )
    return F.pixel_unshuffle(x, factor).unflatten(1, (channels, -1)).mean(2)


def duplicate_up(z: Tensor, channels: int, factor: int = 2) -> Tensor:
    """The decoder's shortcut: each channel f²C/C' times in a row, then channel to space (dcae-up).

    It is a right inverse: average_down(duplicate_up(z)) = z (dcae-inverse). So duplicate_up ∘ average_down is a
    projection, and an orthogonal one (dcae-projection): the part of an image that the shortcuts carry.

    Shapes: z (B, C', H, W) -> (B, C, fH, fW), C = `channels`. Neighbours are repeated (`repeat_interleave`), since
    neighbours are averaged.

    Raises:
        ValueError: C' does not divide f²C.
    """
    if channels * factor**2 % z.shape[1]:
        raise ValueError(
            f"cannot duplicate {z.shape[1]} channels up by {factor} to {channels}: {z.shape[1]} must divide "
            f"{channels * factor**2}"
        )
    return F.pixel_shuffle(z.repeat_interleave(channels * factor**2 // z.shape[1], 1), factor)


class Down(nn.Module):
    """S2C(conv(x)) + average_down(x), the shortcut being optional: (B, C, H, W) -> (B, out, H/f, W/f)."""

    def __init__(self, channels: int, out: int, factor: int = 2, shortcut: bool = True):
        super().__init__()
        if out % factor**2:
            raise ValueError(f"a width after halving must be divisible by {factor**2}, got {out}")
        self.conv = nn.Conv2d(channels, out // factor**2, 3, padding=1)
        self.out, self.factor, self.shortcut = out, factor, shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = F.pixel_unshuffle(self.conv(x), self.factor)
        return y + average_down(x, self.out, self.factor) if self.shortcut else y


class Up(nn.Module):
    """C2S(conv(z)) + duplicate_up(z), the shortcut being optional: (B, C, H, W) -> (B, out, fH, fW)."""

    def __init__(self, channels: int, out: int, factor: int = 2, shortcut: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(channels, out * factor**2, 3, padding=1)
        self.out, self.factor, self.shortcut = out, factor, shortcut

    def forward(self, z: Tensor) -> Tensor:
        y = F.pixel_shuffle(self.conv(z), self.factor)
        return y + duplicate_up(z, self.out, self.factor) if self.shortcut else y


# ---------------------------------------------------------------------------------------------------- the model


class DCAE(Autoencoder):
    """The autoencoder and its three training phases. It accepts images of any sides that f = 2^(stages − 1) divides.

    Stage k has `widths[k]` channels at 1/2^k of the resolution. A first stage of depth 0, as in all of the paper's
    models, is no stage: the image enters by one downsampling convolution.

    Args:
        shape: (C, H, W) of the data.
        latent: c, the channels of the latent.
        widths: one per stage.
        depths, decoder_depths: blocks per stage; the decoder's are the encoder's by default.
        attention: the first stage, counted from 0, that has `EfficientViTBlock`s; earlier ones have `ResBlock`s.
        head: the width of an attention head.
        shortcut: False removes every shortcut of the down- and upsampling blocks, for comparison.
        perceptual: as in `Autoencoder`.
        discriminator: of patches, for the third phase; or None.
        adversarial_weight: a factor on the adaptive weight of the third phase.

    Raises:
        ValueError: the stages' lists disagree, or f does not divide the sides.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        latent: int,
        widths: tuple[int, ...],
        depths: tuple[int, ...],
        decoder_depths: tuple[int, ...] | None = None,
        *,
        attention: int = 3,
        head: int = 32,
        shortcut: bool = True,
        perceptual: Perceptual | None = None,
        discriminator: nn.Module | None = None,
        adversarial_weight: float = 0.5,
    ):
        decoder_depths = depths if decoder_depths is None else decoder_depths
        if not len(widths) == len(depths) == len(decoder_depths) >= 2 or min(*depths[1:], *decoder_depths[1:]) < 1:
            raise ValueError("widths and depths need one entry per stage, two stages, and blocks in all but the first")
        if (depths[0] == 0) != (decoder_depths[0] == 0):
            raise ValueError("the first stage has depth 0 in both the encoder and the decoder, or in neither")

        def blocks(stage: int, depth: int) -> list[nn.Module]:
            return [
                EfficientViTBlock(widths[stage], head) if stage >= attention else ResBlock(widths[stage])
                for _ in range(depth)
            ]

        channels, first = shape[0], 0 if depths[0] else 1  # the stage that the image enters
        steps = range(first, len(widths) - 1)
        down: list[nn.Module] = [Down(channels, widths[first], 2**first, shortcut=False), *blocks(first, depths[first])]
        for k in steps:
            down += [Down(widths[k], widths[k + 1], 2, shortcut), *blocks(k + 1, depths[k + 1])]
        up: list[nn.Module] = [Up(latent, widths[-1], 1, shortcut), *blocks(len(widths) - 1, decoder_depths[-1])]
        for k in reversed(steps):
            up += [Up(widths[k + 1], widths[k], 2, shortcut), *blocks(k, decoder_depths[k])]
        last = Up(widths[first], channels, 2**first, shortcut=False)
        head_up = nn.Sequential(ChannelNorm(widths[first]), nn.SiLU(), last)

        adversary = None
        if discriminator is not None:
            adversary = Adversary(discriminator, last.conv.get_parameter("weight"), adversarial_weight)
        super().__init__(shape, perceptual, adversary)
        self.factor, self.latent = 2 ** (len(widths) - 1), latent
        self.encoder = nn.Sequential(*down, Down(widths[-1], latent, 1, shortcut))
        self.decoder = nn.Sequential(*up, head_up)
        self._check(shape)

    def _check(self, shape: tuple[int, ...] | torch.Size) -> None:
        if len(shape) != 3 or shape[0] != self.shape[0] or shape[1] % self.factor or shape[2] % self.factor:
            raise ValueError(f"need images ({self.shape[0]}, H, W), {self.factor} dividing H and W, got {tuple(shape)}")

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(c, H/f, W/f)."""
        return (self.latent, self.shape[1] // self.factor, self.shape[2] // self.factor)

    def encode(self, x: Tensor) -> Tensor:
        """E(x), deterministic: (B, C, H, W) -> (B, c, H/f, W/f), for any H and W that f divides."""
        self._check(x.shape[1:])
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """D(z): (B, c, h, w) -> (B, C, fh, fw)."""
        return self.decoder(z)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.decode(self.encode(x)), x.new_zeros(len(x))

    # ------------------------------------------------------------------------------------------------ the phases

    def full_training(self) -> dict[str, Objective]:
        """Phase 1, on images of low resolution: everything, L1 + perceptual, no adversary."""
        return self.players(adversarial=False)

    def latent_adaptation(self) -> dict[str, Objective]:
        """Phase 2, on images of high resolution: the encoder's last and the decoder's first layer, same loss.

        The latents' law changes with the resolution; these are the layers that write latents and read them.
        """
        middle = [*self.encoder[-1].parameters(), *self.decoder[0].parameters()]
        return self.players(middle, adversarial=False)

    def local_refinement(self) -> dict[str, Objective]:
        """Phase 3, on images of low resolution: the decoder's last layers, with the patch adversary as second player.

        Local detail needs no deep layers, so the latents stay as they are.

        Raises:
            ValueError: the model was built without a discriminator.
        """
        if self.adversary is None:
            raise ValueError("local refinement needs an adversary: build DCAE with discriminator=...")
        return self.players(list(self.decoder[-1].parameters()))

    def objectives(self) -> dict[str, Objective]:
        """Phase 1."""
        return self.full_training()


# ------------------------------------------------------------------------------------------------- the paper's sizes


def published(factor: int, size: int = 512) -> DCAE:
    """The paper's f32c32, f64c128 or f128c512 for RGB images of side `size`: f = 32, 64, 128, c = f²/32.

    All three have as many latent scalars, HWc/f² = HW/32; only tokens are fewer (dcae-scalars). Build it under
    `torch.device("meta")` to look at shapes without memory.
    """
    if factor not in (32, 64, 128):
        raise ValueError(f"the paper's models have f = 32, 64 or 128, got {factor}")
    stages = int(math.log2(factor)) + 1
    widths, depths = (128, 256, 512, 512, 1024, 1024, 2048, 2048), (0, 4, 8, 2, 2, 2, 2, 2)
    decoder_depths = (0, 5, 10, 2, 2, 2, 2, 2)
    return DCAE((3, size, size), factor**2 // 32, widths[:stages], depths[:stages], decoder_depths[:stages])
