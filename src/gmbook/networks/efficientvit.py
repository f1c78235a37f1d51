"""The blocks of EfficientViT: attention whose cost is linear in the number of pixels, and what stands beside it.

Cai, Li, Hu, Gan, Han 2023, arXiv:2205.14756; here as DC-AE, arXiv:2410.10733, has them.
"""

from __future__ import annotations

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def linear_attention(query: Tensor, key: Tensor, value: Tensor, eps: float = 1e-15) -> Tensor:
    """o_i = φ(q_i)ᵀ Σ_j φ(k_j) v_jᵀ / (φ(q_i)ᵀ Σ_j φ(k_j) + eps) with φ = ReLU (dcae-linear-attention).

    The two sums do not depend on i, so the cost is O(N d²) where softmax attention has O(N² d). A matrix of weights is
    behind it as there, but its rank is at most d (dcae-rank). Single precision at least, also under autocast: the
    denominators have no digits to lose.

    Shapes: query, key (..., N, d), value (..., N, e) -> (..., N, e). A query with φ(q) = 0 receives 0.
    """
    device = query.device.type
    with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else contextlib.nullcontext():
        precise = torch.promote_types(query.dtype, torch.float32)
        phi_q, phi_k, v = query.to(precise).relu(), key.to(precise).relu(), value.to(precise)
        sums = phi_k.mT @ F.pad(v, (0, 1), value=1.0)  # (..., d, e + 1): the last column is Σ_j φ(k_j)
        mixed = phi_q @ sums
        return (mixed[..., :-1] / (mixed[..., -1:] + eps)).to(query.dtype)


class ChannelNorm(nn.Module):
    """x/√(mean over channels of x²) · w + b, at each pixel: (B, C, H, W) -> same."""

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels)), eps

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.rsqrt(x.square().mean(1, keepdim=True) + self.eps)
        return torch.addcmul(self.bias[:, None, None], x, self.weight[:, None, None])


class ResBlock(nn.Module):
    """x + norm(conv(SiLU(conv(x)))): (B, C, H, W) -> same. The shallow stages."""

    def __init__(self, channels: int):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            ChannelNorm(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.main(x)


class EfficientViTBlock(nn.Module):
    """x + norm(W linear_attention(x)), then x + norm(gated convolution of x): the deep stages. (B, C, H, W) -> same.

    Args:
        channels: C.
        head: the width d of a head, which must divide C; 32 in the paper's models.
    """

    def __init__(self, channels: int, head: int = 32):
        super().__init__()
        if channels % head:
            raise ValueError(f"a head's width must divide the channels, got head {head} for {channels} channels")
        hidden = 4 * channels
        self.head = head
        self.query_key_value = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.project = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), ChannelNorm(channels))
        self.widen = nn.Sequential(
            nn.Conv2d(channels, 2 * hidden, 1),
            nn.SiLU(),
            nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden),
        )
        self.narrow = nn.Sequential(nn.Conv2d(hidden, channels, 1, bias=False), ChannelNorm(channels))

    def forward(self, x: Tensor) -> Tensor:
        heads = self.query_key_value(x).flatten(2).unflatten(1, (3, -1, self.head)).mT  # (B, 3, heads, HW, d)
        mixed = linear_attention(*heads.unbind(1))
        x = x + self.project(mixed.mT.flatten(1, 2).unflatten(2, x.shape[2:]))
        value, gate = self.widen(x).chunk(2, 1)
        return x + self.narrow(value * F.silu(gate))
