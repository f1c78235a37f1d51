"""The contract of everything that trains."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from gmbook.core.checks import Watch, check_count, check_event, check_precision

F = TypeVar("F", bound=Callable[..., Any])


class Objective(NamedTuple):
    """One player: what it minimises, what it may move, and how often it plays.

    Attributes:
        loss: maps a batch, `loss(*batch)`, to a scalar (), the mean over the batch.
        parameters: the only parameters that this player's gradient step may change.
        every: the player moves at steps 0, every, 2·every, …
    """

    loss: Callable[..., Tensor]
    parameters: list[nn.Parameter]
    every: int = 1


class Labelled(nn.Module):
    """A part of a network that reads labels 0..classes − 1, and knows so; `Model.labels` asks it.

    Its own forward may take one index more, a null class that stands for no label; a user's label never means that.
    """

    classes: int


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; behind it each part of the model is in the mode that it was in before.

    The mode is set as a plain attribute: a module's own way of setting looks first for parameters and parts of that
    name, and took a twelfth of the time in which a small flow samples.
    """
    training = [part for part in model.modules() if part.training]
    for part in training:
        object.__setattr__(part, "training", False)
    try:
        yield
    finally:
        for part in training:
            object.__setattr__(part, "training", True)


def sampling(walk: F) -> F:
    """Make a sampler of a function or a generator whose first argument is a model: it runs in evaluation mode and
    without a graph, whatever mode the model is in, and leaves the modes as they were.

    So samples come from one law, right after training too, when dropout of units and labels is on. A generator is in
    this state while it computes, not between two of its states, where one may train.
    """
    first = next(iter(inspect.signature(walk).parameters))

    def model_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> nn.Module:
        return args[0] if args else kwargs[first]

    @functools.wraps(walk)
    def whole(*args: Any, **kwargs: Any) -> Any:
        with torch.no_grad(), evaluation(model_of(args, kwargs)):
            return walk(*args, **kwargs)

    @functools.wraps(walk)
    def step_by_step(*args: Any, **kwargs: Any) -> Iterator[Any]:
        states = walk(*args, **kwargs)
        while True:
            with torch.no_grad(), evaluation(model_of(args, kwargs)):
                try:
                    state = next(states)
                except StopIteration:
                    return
            yield state

    return step_by_step if inspect.isgeneratorfunction(walk) else whole  # type: ignore[return-value]


class Model(nn.Module):
    """Everything that trains: a loss, the players that minimise it, and samples.

    A model has `shape`, the event shape S, so that `sample(n, y=None)` has one signature for vectors, images
    and tokens. Where the paper defines one, a model also has `log_prob(x)` or a bound `elbo(x)`, (B,), in nats.
    """

    shape: tuple[int, ...]

    def __init__(self) -> None:
        super().__init__()
        self.watch = Watch()

    def loss(self, *batch: Tensor) -> Tensor:
        """The training loss of one batch: (), mean over the batch."""
        raise NotImplementedError(f"{type(self).__name__} has no loss: it cannot be trained")

    def objectives(self) -> dict[str, Objective]:
        """The players, by name. By default a single one that minimises `loss` over all trainable parameters."""
        return {"loss": Objective(self.loss, [p for p in self.parameters() if p.requires_grad])}

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        """n samples, (n, *shape), for labels y (n,) where the model is conditional."""
        raise NotImplementedError(f"{type(self).__name__} has no sampler of its own")

    def networks(self) -> list[nn.Module]:
        """The parts that `torch.compile` may take: by default every child that has something to train.

        What is differentiated twice (a critic under a gradient penalty) must be left out.
        """
        return [child for child in self.children() if any(p.requires_grad for p in child.parameters())]

    @property
    def device(self) -> torch.device:
        """Where the model is: the device of its first parameter, of its first buffer if it has none, else the CPU."""
        return next(chain(self.parameters(), self.buffers()), torch.empty(0)).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its first parameter. An ideal model, which has none, has torch's default: its tables are in
        float64, its data are not."""
        return next(self.parameters(), torch.empty(0)).dtype

    def noise(self, n: int) -> Tensor:
        """n draws of standard Gaussian noise in the event shape, (n, *shape), on the model's device."""
        check_count("n", n)
        return torch.randn(n, *self.shape, device=self.device, dtype=self.dtype)

    def check(self, x: Tensor) -> None:
        """Refuse what is not a batch (B, *shape) of floating-point numbers that the model's networks can read.

        Raises:
            TypeError: x is no tensor, holds integers, or is in float64 where the model is not.
            ValueError: x has another event shape.
        """
        check_event(x, self.shape)
        if x.dtype == torch.float64:
            check_precision(x, next(self.parameters(), None))

    def labels(self, y: Any, n: int) -> Tensor | None:
        """y for n examples, on the model's device: labels where a part of the model is `Labelled`, else anything.

        Raises:
            TypeError: labels are not integers.
            ValueError: labels are not (n,), or lie outside 0..classes − 1, the null class included.
        """
        if y is None:
            return None
        y = torch.as_tensor(y)
        part = next((part for part in self.modules() if isinstance(part, Labelled)), None)
        if part is not None:
            if y.is_floating_point() or y.is_complex():
                raise TypeError(f"labels must be integers, got {y.dtype}")
            if y.shape != (n,):
                raise ValueError(f"labels must be one for each example, ({n},), got the shape {tuple(y.shape)}")
            if n and self.watch(y):
                least, most = int(y.min()), int(y.max())
                if least < 0 or most >= part.classes:
                    raise ValueError(
                        f"labels must lie in 0..{part.classes - 1}, got {least} to {most}: subtract 1 from labels that "
                        "begin at 1; for no label leave y out"
                    )
            y = y.long()
        return y.to(self.device)
