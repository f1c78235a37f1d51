"""Several processes that share one run, by torch's DistributedDataParallel.

    torchrun --nproc_per_node=4 -m gmbook.cli train ddpm mnist --budget gpu

A run is defined by its experiment; processes only share its work. Every process reads the same whole batch and takes
its part of the rows, and DistributedDataParallel averages the gradients of each player's loss. So the batch size and
the learning rate do not depend on how many processes there are, and a run may be resumed with another number.

Why not by way of Lightning Fabric. It puts the same DistributedDataParallel around a model, and its dependencies are
nine packages more. Its `mark_forward_method` sends a loss that is a method through the wrapper; here a `_Player` does,
in five lines, and says which parameters this player may move. Of the list below the rows would be Fabric's for a
DataLoader, which the book's streams are not, and the rest would stay to do.

What is equal. Given the same noise, N processes have the losses and gradients of one process, up to rounding, for
every loss that is a mean of terms each of which sees one example. The noise itself is another draw of the same law.
What a loss computes over a whole batch (batch statistics, optimal-transport pairings, low-discrepancy times) is
computed over a part.

DistributedDataParallel leaves five things to its user, which are here:

- the rows of each process (`own_parts`) and the mean of the losses that are shown (`total`);
- noise that differs between processes, with generators that are in step otherwise (`own_noise`): from one generator's
  state in the checkpoint any number of processes go on;
- buffers. It would send them before the forward pass, for which it must hold them all, and leave them unequal after the
  last step. `broadcast` makes them those of the first process after each step;
- layers that initialise themselves from the first batch, such as ActNorm: `look_at` shows them the whole of it;
- errors: when a process has ended, the others hear of a broken connection. `communication` says what it means.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gmbook.core.model import Objective

Batch = tuple[Tensor, ...]
Loss = Callable[..., Tensor]


class ProcessLost(RuntimeError):
    """Another process of the run has ended, and this one cannot go on."""


@contextlib.contextmanager
def process_group(patience: timedelta = timedelta(minutes=10)) -> Iterator[None]:
    """Within it this process is one of those that torchrun started; without torchrun nothing happens.

    NCCL between GPUs, one per process, gloo for what is on the CPU.

    Args:
        patience: how long to wait for a process that does not answer before the run ends with an error.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        yield
        return
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=patience)
    yield
    dist.destroy_process_group()  # not after an error: it would wait for processes that no longer answer


def world() -> int:
    """How many processes share the run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if world() > 1 else 0


def is_main() -> bool:
    """Whether this process is the one that writes and prints."""
    return rank() == 0


# ------------------------------------------------------------------------------------------------ losses and rows


class _Player(nn.Module):
    """A loss as a module, which holds as its own only what the player may move."""

    def __init__(self, objective: Objective):
        super().__init__()
        self.own = nn.ParameterList(objective.parameters)
        self.objective = objective

    def forward(self, *batch: Tensor) -> Tensor:
        return self.objective.loss(*batch)


def distributed(objective: Objective) -> Loss:
    """The objective's loss; with several processes one whose backward pass averages the gradients over them."""
    if world() == 1:
        return objective.loss
    # A loss need not use every parameter: those that none of the processes uses keep no gradient.
    return DistributedDataParallel(_Player(objective), find_unused_parameters=True)


def gradients_stay(loss: Loss) -> contextlib.AbstractContextManager[None]:
    """Within it the backward pass of a distributed loss is not followed by communication: more parts are to come."""
    return loss.no_sync() if world() > 1 else contextlib.nullcontext()  # type: ignore[attr-defined]


def own_parts(batch: Batch, accumulate: int) -> list[tuple[Batch, float]]:
    """This process's rows of a batch in `accumulate` parts, each with its weight: all weights have the sum 1.

    Raises:
        ValueError: there are fewer rows than parts.
    """
    count = world() * accumulate
    if count == 1:
        return [(batch, 1.0)]
    rows = len(batch[0])
    if rows < count:
        raise ValueError(
            f"a batch of {rows} cannot be cut into {count} parts ({world()} processes, accumulate = {accumulate}): "
            "use fewer of them"
        )
    parts = list(zip(*(tensor.tensor_split(count) for tensor in batch)))
    return [(part, len(part[0]) / rows) for part in parts[rank() * accumulate : (rank() + 1) * accumulate]]


@contextlib.contextmanager
def own_noise() -> Iterator[None]:
    """Within it each process draws noise of its own; afterwards the generators of all are in step again."""
    if world() == 1:
        yield
        return
    seed = int(torch.randint(2**62, ()))  # of the CPU's generator: the same in all
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
        torch.manual_seed(seed + rank())
        yield


def look_at(batch: Batch, objectives: Iterable[Objective], model: nn.Module) -> None:
    """Compute the losses of a whole batch without a gradient: layers such as ActNorm initialise themselves by it.

    All processes see the same batch and the same noise. Statistics are put back; flags, which say that it happened,
    stay.
    """
    before = [buffer.clone() for buffer in model.buffers()]
    with torch.no_grad():
        for objective in objectives:
            objective.loss(*batch)
    for buffer, value in zip(model.buffers(), before, strict=True):
        if buffer.dtype != torch.bool:
            buffer.copy_(value)


# ---------------------------------------------------------------------------------------------------- messages


@contextlib.contextmanager
def communication() -> Iterator[None]:
    """Within it a broken connection to another process is a `ProcessLost`.

    Raises:
        ProcessLost: another process has ended or does not answer.
    """
    try:
        yield
    except RuntimeError as error:
        if world() > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise ProcessLost(
                "another process of this run has ended or hangs: see what it printed; then --resume"
            ) from (error)
        raise


def total(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes, in place."""
    if world() > 1:
        dist.all_reduce(value)
    return value


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors, in place, with those of the first process."""
    if world() > 1:
        for tensor in tensors:
            copy = tensor.detach().contiguous()  # the tensor itself, where it is contiguous
            dist.broadcast(copy, 0)
            tensor.detach().copy_(copy)


def in_any(flag: bool) -> bool:
    """Whether the flag is up in any process. It travels by the CPU, so that no GPU is waited for.

    Raises:
        ProcessLost: another process has ended or does not answer.
    """
    with communication():
        return bool(total(torch.tensor(float(flag)))) if world() > 1 else flag


def same_in_all(number: int) -> bool:
    """Whether all processes have the same number."""
    numbers: list[int] = [number] * world()
    if world() > 1:
        dist.all_gather_object(numbers, number)
    return len(set(numbers)) == 1
