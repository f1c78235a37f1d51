"""What a run will cost, before it is run: floating-point operations, memory, time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count, shape_wrapper

from gmbook.core.model import Model, Objective
from gmbook.train.loop import train
from gmbook.train.optimizers import OptimizerFactory
from gmbook.train.recipe import Recipe

H100 = 989e12  # an H100 SXM's dense bf16 rate, FLOP/s
UTILISATION = 0.4  # what a well-fed network reaches of it; small ones reach less
Draw = Callable[[int], tuple[Tensor, ...]]  # n -> a batch of n examples
PROBE_SIZES = (2, 3)  # batch sizes at which a large model is looked at; what it costs is affine in the batch


def _attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """Five products of the size of the forward's two: the scores once more, and the four gradients."""
    return 5 * sdpa_flop_count(query, key, value) // 2


# The CPU's attention kernel, which torch's own table leaves out: without these two a transformer's attention is free.
FORMULAS = flop_registry | {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: shape_wrapper(_attention),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: shape_wrapper(_attention_backward),
}


class _Counter(TorchDispatchMode):
    """Adds up torch's formulas. (FlopCounterMode also tracks modules, and fails on a gradient of a gradient.)"""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = FORMULAS.get(func._overloadpacket)
        self.total += formula(*args, **(kwargs or {}), out_val=out) if formula is not None else 0
        return out


def flops(act: Callable[[], Any]) -> int:
    """The floating-point operations of products and convolutions while `act` runs, 2 for a multiply-add.

    Elementwise operations, normalisations and the optimizer are left out: on a GPU memory sets their time. Attention
    is counted in full where it is causal, too, and its backward pass as 5/2 of the forward, as the fused kernels do it.
    """
    with _Counter() as counter:
        act()
    return counter.total


def activations(loss: Callable[[], Tensor], model: nn.Module) -> int:
    """Bytes that the forward pass of a loss keeps for the backward pass, weights and buffers apart."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            kept[place] = tensor  # holds the storage, so that its place is not given to another
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss()
    return sum(t.untyped_storage().nbytes() for t in kept.values())


@dataclass(frozen=True)
class Cost:
    """What one step costs: floating-point operations, and bytes of activations in float32."""

    flops: float
    activations: float


def cost(model: Model, draw: Draw, size: int) -> Cost:
    """What a step of `size` examples costs, all players together, each by how often it moves.

    Forward and backward pass of the real losses are run on two small batches, and the line through both is read off
    at `size`: exact where the cost is affine in the batch, as for all losses of the book.
    """
    model.train()
    small, large = (_cost_at(model, draw(n)) for n in PROBE_SIZES)
    reach = (size - PROBE_SIZES[0]) / (PROBE_SIZES[1] - PROBE_SIZES[0])
    return Cost(
        small.flops + reach * (large.flops - small.flops),
        small.activations + reach * (large.activations - small.activations),
    )


def _cost_at(model: Model, batch: tuple[Tensor, ...]) -> Cost:
    counts, bytes_ = 0.0, 0
    for objective in model.objectives().values():
        counts += flops(partial(_step, objective, batch)) / objective.every
        bytes_ = max(bytes_, activations(partial(objective.loss, *batch), model))  # the players take turns
    return Cost(counts, bytes_)


def _step(objective: Objective, batch: tuple[Tensor, ...]) -> None:
    objective.loss(*batch).backward(inputs=objective.parameters)
    for parameter in objective.parameters:
        parameter.grad = None


@dataclass(frozen=True)
class Plan:
    """What a run will cost.

    Attributes:
        weights: the number of trained parameters.
        steps, size: of the run.
        step: what one of its steps costs.
        memory: bytes by use, in one process; activations in float32, or half of that under bf16.
        seconds: a step on this machine, measured; None if it was not.
    """

    weights: int
    steps: int
    size: int
    step: Cost
    memory: dict[str, float]
    seconds: float | None

    def hours(self, rate: float = UTILISATION * H100) -> float:
        """The run's hours on a machine that does `rate` operations a second."""
        return self.steps * self.step.flops / rate / 3600

    def summary(self) -> str:
        """The plan in five lines."""
        uses = ", ".join(f"{name} {_bytes(amount)}" for name, amount in self.memory.items())
        if self.seconds is None:
            here = "not measured: this setting is meant for a GPU, and there is none here"
        else:
            here = f"{_duration(self.seconds * self.steps)}, from {self.seconds:.3g} s a step (median of {TIMED} steps)"
        each, all_ = self.step.flops, self.steps * self.step.flops
        return "\n".join(
            [
                f"arithmetic    {_count(each)}FLOP a step, {_count(all_)}FLOP in all",
                f"memory        {_bytes(sum(self.memory.values()))}: {uses}",
                f"this machine  {here}",
                f"an H100       {_duration(3600 * self.hours())} at {UTILISATION:.0%} of its bf16 rate; "
                "a small network reaches less",
            ]
        )


TIMED = 3


def plan(model: Model, draw: Draw, recipe: Recipe, *, measure: bool) -> Plan:
    """Look at a model that has not been trained, and say what its run will cost. Afterwards the model is spoilt.

    Args:
        draw: gives a batch of n examples.
        recipe: of the run, with its batch size.
        measure: time a few whole steps on this machine.

    Raises:
        ValueError: the recipe has no batch size.
    """
    size = recipe.required_batch_size
    parameters = [p for p in model.parameters() if p.requires_grad]
    weights = sum(p.numel() for p in parameters)
    step = cost(model, draw, size)
    own = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    trained = sum(p.nbytes for p in parameters)
    memory = {
        "weights": own,
        "gradients": trained,
        "optimizer": _moments(parameters, recipe.optimizer_factory),
        "average": 0 if recipe.ema_decay is None else own,
        "activations": step.activations / recipe.accumulate / (2 if recipe.bf16 else 1),
    }
    seconds = _time(model, draw(size), recipe) if measure else None
    return Plan(weights, recipe.steps, size, step, {k: float(v) for k, v in memory.items() if v}, seconds)


def _moments(parameters: list[nn.Parameter], optimizer: OptimizerFactory) -> int:
    """The bytes that an optimizer keeps of the parameters' shapes, two of a kind for Adam and one for Muon: what is
    there after a step of no gradients."""
    for p in parameters:
        p.grad = torch.zeros_like(p)
    made = optimizer(parameters)
    made.step()
    return sum(kept.nbytes for p, state in made.state.items() for kept in state.values() if kept.shape == p.shape)


def _time(model: Model, batch: tuple[Tensor, ...], recipe: Recipe) -> float:
    """Seconds of a training step on one batch: the median of a few, after one that warms up."""
    moments = [time.perf_counter()]
    for losses in islice(train(model, [batch], recipe, steps=TIMED + 1), TIMED + 1):
        for loss in losses.values():
            loss.item()  # waits for a GPU
        moments.append(time.perf_counter())
    return torch.tensor(moments, dtype=torch.float64).diff()[1:].median().item()


def _count(number: float) -> str:
    for unit in ("", "k", "M", "G", "T", "P"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} E"


def _bytes(number: float) -> str:
    return _count(number) + "B"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def stand_in(model: Model) -> Draw:
    """Noise in the form that the model's losses take: floats or integers of the event shape, with labels or without.

    Raises:
        ValueError: they take none of these.
    """
    where = model.device
    kinds: list[Draw] = [
        lambda n: (torch.rand(n, *model.shape, device=where),),
        lambda n: (torch.randint(2, (n, *model.shape), device=where),),
        lambda n: (torch.rand(n, *model.shape, device=where), torch.randint(2, (n,), device=where)),
    ]
    for draw in kinds:
        try:
            for objective in model.objectives().values():
                objective.loss(*draw(2))
            return draw
        except (TypeError, ValueError, RuntimeError):
            continue
    raise ValueError(f"{type(model).__name__} cannot be planned without its data: get them with `gmbook data`")
