"""text8's 27 letters as tokens, and back."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

ALPHABET = " abcdefghijklmnopqrstuvwxyz"  # text8's 27 symbols: token 0 is the space, 1 is a, 26 is z
NOT_A_SYMBOL = 255
TO_TOKEN = bytes(ALPHABET.find(chr(b)) if chr(b) in ALPHABET else NOT_A_SYMBOL for b in range(256))


def encode(text: str) -> Tensor:
    """Letters to tokens: (L,) int64 in 0..26. Raises ValueError at a character outside the alphabet."""
    raw = text.encode("latin-1", errors="replace")  # one byte per character; what does not fit becomes "?"
    tokens = np.frombuffer(raw.translate(TO_TOKEN), dtype=np.uint8).astype(np.int64)
    if NOT_A_SYMBOL in tokens:
        place = int(tokens.argmax())
        raise ValueError(
            f"character {place} is {text[place]!r}: the alphabet is a-z and the space; write in lower case, "
            "spell digits out, and drop punctuation and accents"
        )
    return torch.from_numpy(tokens)


def decode(tokens: Tensor, mask: str = "", alphabet: str = ALPHABET) -> str:
    """Tokens to letters: (L,) integers in 0..V−1 -> a string of L characters.

    Args:
        mask: how the mask, token V, is written; without it there must be none.
        alphabet: the V letters; text8's 27 by default.
    """
    if tokens.ndim != 1:
        raise ValueError(f"expected tokens (L,), got {tuple(tokens.shape)}: decode one row at a time")
    symbols = alphabet + mask
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < len(symbols):
        raise ValueError(f"expected tokens in 0..{len(symbols) - 1}, got {int(tokens.min())}..{int(tokens.max())}")
    return "".join(symbols[token] for token in tokens.tolist())
