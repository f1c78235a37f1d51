"""What `test_processes.py` runs in two processes, and again in one: `python two_processes.py FOLDER RANK PORTS`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gmbook.core.model import Model, Objective
from gmbook.data.batches import LawBatches
from gmbook.laws import plane
from gmbook.networks.mlp import MLP, TimeMLP
from gmbook.papers.ddpm import DDPM
from gmbook.papers.flow_matching import FlowMatching
from gmbook.papers.gan import GAN, gradient_penalty, r1
from gmbook.papers.glow import Glow
from gmbook.papers.realnvp import RealNVP
from gmbook.train import EMA, fit, processes, train

SIZE = 30  # halves of 15 rows, and quarters of 8 and 7


class Dropout(Model):
    """Noise within the network, and a parameter that no loss uses."""

    shape = (2,)

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 16), nn.Dropout(0.5), nn.Linear(16, 1))
        self.idle = nn.Parameter(torch.ones(3))

    def loss(self, x: Tensor) -> Tensor:
        """Regression on the sum."""
        return (self.net(x) - x.sum(1, keepdim=True)).square().mean()


class Shared(Model):
    """Two players that move one factor both, and one of their own each; the second player moves every other step."""

    shape = (2,)

    def __init__(self) -> None:
        super().__init__()
        self.factor, self.a, self.b = (nn.Parameter(torch.tensor([1.0, 0.5])) for _ in range(3))

    def objectives(self) -> dict[str, Objective]:
        """Both fit x₁, each by its own way."""
        first = lambda x: (self.factor * self.a * x).sum(1).sub(x[:, 0]).square().mean()  # noqa: E731
        second = lambda x: (self.factor * x).sub(self.b).square().mean()  # noqa: E731
        return {"first": Objective(first, [self.factor, self.a]), "second": Objective(second, [self.factor, self.b], 2)}


class Running(Model):
    """A network with batch normalisation, whose running statistics are buffers."""

    shape = (2,)

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 1))

    def loss(self, x: Tensor) -> Tensor:
        """Regression on the sum."""
        return (self.net(x) - x.sum(1, keepdim=True)).square().mean()


def net() -> TimeMLP:
    """A small network with time."""
    return TimeMLP(2, 32, 2)


MODELS: dict[str, Callable[[], Model]] = {
    "dropout": Dropout,
    "flow matching": lambda: FlowMatching(net(), (2,)),
    "ddpm": lambda: DDPM(net(), (2,), 100),
    "gan with r1": lambda: GAN(MLP(4, 2), MLP(2, 1), (2,), 4, penalty=r1(), critic_steps=2),
    "gan with gradient penalty": lambda: GAN(MLP(4, 2), MLP(2, 1), (2,), 4, penalty=gradient_penalty()),
    "shared": Shared,
    "running": Running,
    "batch norm": lambda: RealNVP.on_vectors(2, lambda i, o: MLP(i, o, 16, 1), layers=2, batch_norm=True),
    "actnorm": lambda: Glow.on_vectors(2, 2, 16),
}
# Losses that are means over examples; the others compute statistics of a batch, or draw by `dropout`.
SAME_LAW = ["flow matching", "ddpm", "gan with r1", "gan with gradient penalty", "shared", "actnorm"]


def run(name: str, **options: Any) -> dict[str, Tensor]:
    """Six steps of a model on fresh points: the losses, and the weights with their average."""
    torch.manual_seed(0)
    model = MODELS[name]()
    ema = EMA(model, 0.9)
    batches = LawBatches(plane.moons(), SIZE)
    losses = list(train(model, batches, steps=6, lr=1e-2, ema=ema, clip=1.0, weight_decay=0.1, **options))
    return report(model, losses) | {f"average/{k}": v for k, v in ema.weights.items()}


def optimizer(name: str) -> Any:
    """Adam, but where the first gradients are zero up to rounding, which Adam would make as large as any."""
    return partial(torch.optim.SGD, lr=1.0) if name == "actnorm" else None


def report(model: Model, losses: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """All that a run gave, as one dict of tensors."""
    curves = {f"losses/{i}/{k}": v for i, step in enumerate(losses) for k, v in step.items()}
    return curves | {k: v.clone() for k, v in model.state_dict().items()}


class RowsOfOneDraw(TorchFunctionMode):
    """Within it the k-th draw of process r of `world` is rows r of what the k-th draw of one process would be."""

    def __init__(self, rank: int, world: int):
        super().__init__()
        self.rank, self.world, self.count = rank, world, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func not in (torch.rand, torch.randn, torch.randn_like, torch.randint) or out.ndim == 0:
            return out
        self.count += 1
        generator = torch.Generator().manual_seed(self.count)
        whole = torch.empty(len(out) * self.world, *out.shape[1:], dtype=out.dtype)
        if func is torch.randint:
            whole.random_(args[0], args[1], generator=generator)
        elif func is torch.rand:
            whole.uniform_(generator=generator)
        else:
            whole.normal_(generator=generator)
        return whole.tensor_split(self.world)[self.rank]


def run_on_one_draw(name: str, **options: Any) -> dict[str, Tensor]:
    """Six steps on given batches and given noise: what is left is the mean over the processes."""
    torch.manual_seed(0)
    model = MODELS[name]()
    batches = [(plane.moons().sample(SIZE),) for _ in range(6)]
    draws = RowsOfOneDraw(processes.rank(), processes.world())
    look = processes.look_at

    def unseen(*arguments: Any) -> None:  # a look at the first batch is no draw of the run
        look(*arguments)
        draws.count = 0

    processes.look_at = unseen
    with draws:
        losses = list(train(model, batches, steps=6, lr=1e-2, clip=1.0, **options))
    processes.look_at = look
    return report(model, losses)


def resumed(folder: Path, steps: int) -> dict[str, Tensor]:
    """The same run with checkpoints, continued up to `steps`."""
    torch.manual_seed(0)
    model = MODELS["dropout"]()
    options = {"lr": 1e-2, "save_every": 3, "progress": False, "ema": EMA(model, 0.9)}
    history = fit(model, LawBatches(plane.moons(), SIZE), steps=steps, folder=folder, resume=True, **options)
    return history | {k: v.clone() for k, v in model.state_dict().items()}


def failing(rank: int, at: int, act: Callable[[], None]) -> Iterator[tuple[Tensor, ...]]:
    """Batches; before number `at` process `rank` does something bad."""
    for step in range(100):
        if step == at and processes.rank() == rank:
            act()
        yield (torch.ones(8, 2),)


def interrupt() -> None:
    """As Ctrl-C, in one process alone."""
    os.kill(os.getpid(), signal.SIGINT)


def told(act: Callable[[], Any]) -> str:
    """The type and message of what is raised."""
    try:
        act()
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def main(folder: Path, rank: int, ports: list[str]) -> None:
    """All of it; what it gives goes into files of the folder, by process."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    keep = lambda name, tensors: save_file(tensors, folder / f"{name} {rank}.safetensors")  # noqa: E731
    say = lambda name, text: (folder / f"{name} {rank}.txt").write_text(text)  # noqa: E731
    os.environ["MASTER_PORT"] = ports[0]
    with processes.process_group(timedelta(seconds=60)):
        for name in MODELS:
            keep(name, run(name))
        for name in SAME_LAW:
            keep(f"one draw, {name}", run_on_one_draw(name, optimizer=optimizer(name)))
        keep("two parts each", run_on_one_draw("shared", accumulate=2))
        resumed(folder / "changing", 4)
        resumed(folder / "parts", 4)
        keep("parts", resumed(folder / "parts", 12))
        keep("whole", resumed(folder / "whole", 12))
        small = lambda: fit(Dropout(), [(torch.ones(1, 2),)], steps=1, progress=False)  # noqa: E731
        say("too small", told(small))
        quiet = {"steps": 100, "progress": False, "save_every": 1000}
        stopped = failing(1, 5, interrupt)
        say("interrupted", told(lambda: fit(Dropout(), stopped, folder=folder / "interrupted", **quiet)))
        other = folder / ("whole" if rank == 0 else "elsewhere")
        law = LawBatches(plane.moons(), SIZE)
        say("elsewhere", told(lambda: fit(Dropout(), law, folder=other, resume=True, **quiet, ema=EMA(Dropout()))))
    if rank == 0:
        resumed(folder / "changing", 8)  # alone
    os.environ["MASTER_PORT"] = ports[1]
    with processes.process_group(timedelta(seconds=60)):
        keep("changing", resumed(folder / "changing", 12))
        dies = failing(1, 3, lambda: os._exit(7))
        say("dies", told(lambda: fit(Dropout(), dies, folder=folder / "dies", **quiet)))
        os._exit(0)  # the other one is gone


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
