"""Convolutional encoders and decoders, for VAEs, GANs and autoencoders. At 8×8, 28×28 and 32×32, `downs=2`
fits.

`Encoder` and `Decoder` end and begin in a vector; `MapEncoder` and `MapDecoder` keep a map of 1/2^downs of
the resolution, for latent diffusion. Sizes with the defaults: 28 → 14 → 7, 32 → 16 → 8, 8 → 4 → 2.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from gmbook.networks.embed import label_embedding

Shape = tuple[int, int, int]


def _small(shape: Shape, downs: int) -> tuple[int, int]:
    """Height and width after `downs` halvings."""
    _, height, width = shape
    if downs < 1 or height % 2**downs or width % 2**downs:
        raise ValueError(
            f"each side must be divisible by 2^downs with downs at least 1, got {height}×{width} and downs={downs}"
        )
    return height // 2**downs, width // 2**downs


def _norm(channels: int, wanted: bool) -> nn.Module:
    return nn.GroupNorm(math.gcd(8, channels), channels) if wanted else nn.Identity()


def _as_is(layer: nn.Module) -> nn.Module:
    return layer


class MapEncoder(nn.Module):
    """x (B, C, H, W) -> (B, out, H/2^downs, W/2^downs).

    A 3×3 convolution, then `downs` times a 4×4 one of stride 2, which halves the sides and doubles the
    channels, then a 3×3 one. Leaky ReLU; GroupNorm (no statistics of the batch, so an example's code does not
    depend on its neighbours), or with `spectral` no normalisation but that of the weights.

    Args:
        shape: (C, H, W).
        out: channels of the result (twice the latent's, for a mean and a log-variance).
        width: channels at full resolution.
        downs: the number of halvings.
        classes: the number of classes, or None; the label's vector is added after the first convolution. y
            None means the null class.
        spectral: divide every weight, as a matrix (out, in·k·k), by its largest singular value, estimated by
            one power iteration per training step. arXiv:1802.05957. It bounds that matrix, not the
            convolution, whose norm can be up to k times larger.

    Raises:
        ValueError: the sides are not divisible by 2^downs; when called, labels are given to a network without
            classes.
    """

    def __init__(
        self,
        shape: Shape,
        out: int,
        width: int = 32,
        downs: int = 2,
        *,
        classes: int | None = None,
        spectral: bool = False,
    ):
        super().__init__()
        self.shape, self.small = tuple(shape), _small(shape, downs)
        wrap = spectral_norm if spectral else _as_is
        self.first = wrap(nn.Conv2d(shape[0], width, 3, padding=1))
        self.label = label_embedding(classes, width)
        layers: list[nn.Module] = [nn.LeakyReLU(0.2)]
        for channels in (width * 2**i for i in range(downs)):
            halve = wrap(nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1))
            layers += [halve, _norm(2 * channels, not spectral), nn.LeakyReLU(0.2)]
        last = wrap(nn.Conv2d(width * 2**downs, out, 3, padding=1))
        self.rest = nn.Sequential(*layers, last)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        if x.shape[1:] != self.shape:
            raise ValueError(f"this encoder is built for images {self.shape}, got a batch {tuple(x.shape)}")
        return self.rest(self.label(self.first(x), y))


class MapDecoder(nn.Module):
    """z (B, latent, H/2^downs, W/2^downs) -> (B, C, H, W), unbounded (logits, or a mean without a tanh).

    The mirror image of `MapEncoder`, with transposed convolutions: a kernel of 4 at stride 2, which is a
    multiple of the stride, so every pixel is reached by as many taps.

    Args:
        latent: channels of z.
        shape: (C, H, W).
        width: channels at full resolution.
        downs: the number of doublings.
        classes: the number of classes, or None; the label's vector is added after the first convolution.

    Raises:
        ValueError: the sides are not divisible by 2^downs; when called, labels are given to a network without
            classes.
    """

    def __init__(self, latent: int, shape: Shape, width: int = 32, downs: int = 2, *, classes: int | None = None):
        super().__init__()
        self.shape, self.small = tuple(shape), _small(shape, downs)
        wide = width * 2**downs
        self.first = nn.Conv2d(latent, wide, 3, padding=1)
        self.label = label_embedding(classes, wide)
        layers: list[nn.Module] = [nn.SiLU()]
        for channels in (width * 2**i for i in reversed(range(downs))):
            double = nn.ConvTranspose2d(2 * channels, channels, 4, stride=2, padding=1)
            layers += [double, _norm(channels, True), nn.SiLU()]
        self.rest = nn.Sequential(*layers, nn.Conv2d(width, shape[0], 3, padding=1))

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.rest(self.label(self.first(z), y))


class PatchGAN(nn.Module):
    """A score for each overlapping patch: (B, C, H, W) -> (B, 1, h, w). Isola et al., arXiv:1611.07004.

    `downs` convolutions 4×4 of stride 2, one of stride 1 and a last one of stride 1 to a single channel. A score sees
    a square of `field` pixels a side, 16, 34 or 70 for `downs` = 1, 2, 3, and nothing beyond it. The paper's and
    VQGAN's have BatchNorm and `downs` = 3. Here the weights are divided by their spectral norm instead: a score then
    depends on no other example.

    Args:
        channels: C.
        width: channels after the first convolution; each further one doubles them, up to eight times.
        downs: the number of halvings.

    Raises:
        ValueError: downs < 1.
    """

    def __init__(self, channels: int, width: int = 64, downs: int = 3):
        super().__init__()
        if downs < 1:
            raise ValueError(f"a discriminator of patches needs at least one halving, got downs={downs}")
        widths = [channels, *(width * min(2**k, 8) for k in range(downs + 1))]
        self.field = 4
        layers: list[nn.Module] = []
        for k in range(downs + 1):
            stride = 2 if k < downs else 1
            layers += [spectral_norm(nn.Conv2d(widths[k], widths[k + 1], 4, stride, 1)), nn.LeakyReLU(0.2)]
        for stride in [1, *[2] * downs]:  # from the last convolution back to the image
            self.field = self.field * stride + 4 - stride
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Conv2d(widths[-1], 1, 4, 1, 1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Encoder(nn.Module):
    """x (B, C, H, W), y (B,) or None -> (B, out): a `MapEncoder`, flattened, and a linear layer.

    For a VAE out is twice the latent's dimension; for a critic it is 1.

    Args and Raises: as `MapEncoder`; with `spectral` the linear layer is normalised too.
    """

    def __init__(
        self,
        shape: Shape,
        out: int,
        width: int = 32,
        downs: int = 2,
        *,
        classes: int | None = None,
        spectral: bool = False,
    ):
        super().__init__()
        wide = width * 2**downs
        self.body = MapEncoder(shape, wide, width, downs, classes=classes, spectral=spectral)
        linear = nn.Linear(wide * math.prod(self.body.small), out)
        self.last = spectral_norm(linear) if spectral else linear

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.last(nn.functional.leaky_relu(self.body(x, y), 0.2).flatten(1))


class Decoder(nn.Module):
    """z (B, latent), y (B,) or None -> (B, C, H, W), unbounded: a linear layer to a small map, and a
    `MapDecoder`.

    Args and Raises: as `MapDecoder`.
    """

    def __init__(self, latent: int, shape: Shape, width: int = 32, downs: int = 2, *, classes: int | None = None):
        super().__init__()
        wide = width * 2**downs
        self.body = MapDecoder(wide, shape, width, downs, classes=classes)
        self.first = nn.Sequential(
            nn.Linear(latent, wide * math.prod(self.body.small)), nn.Unflatten(1, (wide, *self.body.small))
        )

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return self.body(self.first(z), y)
