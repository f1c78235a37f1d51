"""Specimens: for each file of papers/, a small model that the contract's test trains, samples, saves and loads.

A specimen stands as SPECIMEN at the head of the paper's own test, tests/papers/test_<name>.py. What else its model can
compute of a batch may stand beside it, as MEASURES, (model, x) -> a tensor; and samplers of any denoiser as WALKS,
(denoiser) -> a tensor. They are run on the pretended GPU of tests/test_devices.py.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import inspect
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gmbook.core.model import Model
from gmbook.core.solvers import dopri5
from gmbook.data import digits, scale
from gmbook.laws import pairs, plane
from gmbook.networks.mlp import TimeMLP
from gmbook.networks.transformer import Transformer
from gmbook.networks.unet import UNet

TESTS = Path(__file__).parent


def points() -> Tensor:
    """Two moons: (256, 2)."""
    return plane.moons().sample(256)


def tokens() -> Tensor:
    """Two moons on an 8 × 8 grid: (256, 2) int64."""
    return pairs.moons(8).sample(256)


def images() -> Tensor:
    """8×8 digits in [−1, 1]: (256, 1, 8, 8)."""
    return scale(digits("train").x[:256], 17)


def net(out: int = 2) -> nn.Module:
    """A network of points and times."""
    return TimeMLP(2, 16, 2, out=out)


def token_net(states: int) -> nn.Module:
    """A network of pairs of tokens and times."""
    return Transformer(states, 16, 1, 2, time=True, out=8)


def unet() -> UNet:
    """A small U-Net with all that the large ones have, for images (1, 8, 8) of ten classes."""
    return UNet(1, width=8, multipliers=(1, 2), attention=(1,), classes=10, drop=0.1, dropout=0.1)


def decoded(model: Model, n: int) -> Tensor:
    """What the decoder of an autoencoder makes of n Gaussian latents."""
    latent = model.encode(torch.zeros(1, *model.shape, device=model.device)).shape[1:]
    return model.decode(torch.randn(n, *latent, device=model.device)).detach()


# For tests of what the adaptive solver touches, not of what it finds.
rough = functools.partial(dopri5, rtol=0.5, atol=0.5)


class Returns(nn.Module):
    """A network that returns the shape that it is told, whatever it reads."""

    def __init__(self, *shape: int):
        super().__init__()
        self.shape, self.weight = shape, nn.Parameter(torch.ones(()))

    def forward(self, *inputs: Tensor | None) -> Tensor:
        return self.weight * torch.zeros(self.shape)


def same_after_copies(model: Model, x: Tensor) -> None:
    """A deep copy and a pickled one have the same losses of a batch, to the bit, at the same seed."""
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        for name, objective in model.objectives().items():
            torch.manual_seed(1)
            expected = objective.loss(x)
            torch.manual_seed(1)
            assert torch.equal(twin.objectives()[name].loss(x), expected), name


class Specimen(NamedTuple):
    """How a paper's model is built, with fresh random weights; draws of its data; how it is sampled.

    `labels` is False where y stands in the signature for the contract's sake and is ignored: an unconditional model.
    """

    build: Callable[[], Model]
    data: Callable[[], Tensor] = points
    draw: Callable[[Model, int], Tensor] = lambda model, n: model.sample(n)
    labels: bool = True


def found(folder: Path = TESTS / "papers") -> dict[str, Specimen]:
    """The SPECIMEN of every test file that has one, by the paper's name."""
    return {name.removeprefix("test_"): value for name, value in named(folder, "SPECIMEN").items()}


def named(folder: Path, name: str) -> dict[str, Any]:
    """What every file of a folder gives this name, of those that do, by the file's stem."""
    values = {}
    for path in sorted(folder.glob("*.py")):
        if f"\n{name} = " in path.read_text(encoding="utf-8"):
            spec = importlib.util.spec_from_file_location(f"{name.lower()}_of_{path.stem}", path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            values[path.stem] = vars(module)[name]
    return values


def defaults(function: Any) -> dict[str, Any]:
    """The defaults of a function, or of a class' constructor, by name."""
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
