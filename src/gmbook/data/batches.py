"""Endless streams of batches that can be stopped and resumed at exactly the same place.

A stream's whole state is the number of batches that it has served: batch k is a function of (seed, k). So a
checkpoint stores a few integers, and a run that is resumed sees exactly the data of one that never stopped.

Several processes read the same whole batches, and each takes its part of the rows (`gmbook.train.processes`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from gmbook.core.law import Source

Transform = Callable[[Tensor], Tensor]


def generator(*key: int) -> torch.Generator:
    """A CPU generator for a tuple of non-negative integers; different keys give unrelated streams."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def mirror(x: Tensor) -> Tensor:
    """Images (B, C, H, W), each flipped left to right with probability one half."""
    return torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, x.flip(3), x)


class Stream(Iterator[tuple[Tensor, ...]]):
    """What the streams share: a counter, and the state.

    Args:
        size: examples per batch, B.
        seed: of the order; a non-negative integer.
    """

    def __init__(self, examples: int, *, size: int, seed: int):
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.size, self.seed = size, seed
        self.examples, self.step = examples, 0

    def indices(self, step: int) -> Tensor:
        """What batch `step` shows: (B,) int64."""
        raise NotImplementedError

    def read(self, indices: Tensor) -> tuple[Tensor, ...]:
        """The batch at `indices`, (B,)."""
        raise NotImplementedError

    def __next__(self) -> tuple[Tensor, ...]:
        batch = self.read(self.indices(self.step))
        self.step += 1
        return batch

    def state_dict(self) -> dict[str, int]:
        """The place in the stream, as integers that JSON can hold."""
        return {
            "step": self.step,
            "seed": self.seed,
            "examples": self.examples,
            "batch": self.size,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to the place that `state_dict` named; the next batch is the one that would have come then.

        Raises:
            ValueError: the state comes from a stream over other data or with another batch size or seed.
        """
        for key, here in self.state_dict().items():
            if key != "step" and state[key] != here:
                raise ValueError(
                    f"cannot resume: the stream was saved with {key} = {state[key]}, this one has {here}; "
                    "make it with the same data, seed and size"
                )
        self.step = state["step"]


def _tensor(x: Tensor) -> Tensor:
    """A tensor or an array as a tensor, float64 in torch's default dtype."""
    x = torch.as_tensor(x)
    return x.to(torch.get_default_dtype()) if x.dtype == torch.float64 else x


class Batches(Stream):
    """A data set as one tensor, served in batches: endless (x,), or (x, y) where labels are given.

    Every epoch is a new permutation, without replacement; the last, incomplete batch of an epoch is dropped.

    Args:
        x: (N, *S), a tensor or an array, kept as it is (uint8 images stay uint8) on `device`; but float64 becomes
            torch's default dtype, in which networks compute.
        y: (N,) labels, or None.
        size: examples per batch, B.
        device: where the set and the batches live.
        augment: maps the raw batch to another, for example a random flip, with torch's default
            generator.
        transform: maps the batch to what the model sees, for example `gmbook.data.scale`.
        seed: of the order.

    Raises:
        ValueError: x and y differ in length, or the set is smaller than one batch.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        size: int,
        device: torch.device | str = "cpu",
        augment: Transform | None = None,
        transform: Transform | None = None,
        seed: int = 0,
    ):
        super().__init__(len(x), size=size, seed=seed)
        if y is not None and len(y) != len(x):
            raise ValueError(f"x and y must have the same length, got {len(x)} and {len(y)}")
        if size > len(x):
            raise ValueError(f"a batch of {size} is larger than the set of {len(x)}: make it smaller")
        self.x, self.y = _tensor(x).to(device), None if y is None else _tensor(y).to(device)
        self.augment, self.transform = augment, transform
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    @property
    def per_epoch(self) -> int:
        """Batches in one epoch."""
        return self.examples // self.size

    def indices(self, step: int) -> Tensor:
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = torch.randperm(self.examples, generator=generator(self.seed, epoch))
        return self._order[position * self.size : (position + 1) * self.size]

    def read(self, indices: Tensor) -> tuple[Tensor, ...]:
        indices = indices.to(self.x.device)
        x = self.x[indices]
        for change in (self.augment, self.transform):
            x = x if change is None else change(x)
        return (x,) if self.y is None else (x, self.y[indices])


class TextBatches(Stream):
    """Windows of a long text: endless (x,) with x (B, L) int64.

    Args:
        tokens: (N,), any integer type (uint8 is kept as it is on `device`).
        length: L.
        size: windows per batch, B.
        order: "random": starts drawn uniformly, with replacement, anywhere in the text; "sequential": the
            ⌊N/L⌋ windows that do not overlap, in the order of the text, round and round.
        device, seed: as in `Batches`.

    Raises:
        ValueError: the text is shorter than a window, or `order` is neither word.
    """

    def __init__(
        self,
        tokens: Tensor,
        *,
        length: int,
        size: int,
        order: str = "random",
        device: torch.device | str = "cpu",
        seed: int = 0,
    ):
        super().__init__(len(tokens), size=size, seed=seed)
        if tokens.ndim != 1 or not 1 <= length <= len(tokens):
            raise ValueError(f"need tokens (N,) with N >= length >= 1, got {tuple(tokens.shape)}, length {length}")
        if order not in ("random", "sequential"):
            raise ValueError(f'order must be "random" or "sequential", got {order!r}')
        self.tokens, self.length, self.order = tokens.to(device), length, order

    def indices(self, step: int) -> Tensor:
        """Where the windows of batch `step` begin: (B,) int64."""
        if self.order == "random":
            starts = self.examples - self.length + 1
            return torch.randint(starts, (self.size,), generator=generator(self.seed, step))
        windows = self.examples // self.length
        return (step * self.size + torch.arange(self.size)) % windows * self.length

    def read(self, indices: Tensor) -> tuple[Tensor, ...]:
        window = torch.arange(self.length, device=self.tokens.device)
        return (self.tokens[indices.to(self.tokens.device)[:, None] + window].long(),)  # (B, L)

    def state_dict(self) -> dict[str, int]:
        return {**super().state_dict(), "length": self.length, "sequential": int(self.order == "sequential")}


class LawBatches(Iterator[tuple[Tensor, ...]]):
    """Fresh draws from a law: endless (x,) with x = law.sample(size), from torch's default generator.

    The order is that generator's: whoever saves and restores it resumes exactly; the state counts the steps.
    """

    def __init__(self, law: Source, size: int):
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        self.law, self.size, self.step = law, size, 0

    def __next__(self) -> tuple[Tensor, ...]:
        self.step += 1
        return (self.law.sample(self.size),)

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.step = state["step"]
