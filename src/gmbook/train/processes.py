"""Several processes that share one run: who I am among them, sums over all of them, and the shares of a batch.

    torchrun --nproc_per_node=4 -m gmbook.cli train ddpm mnist --budget gpu

A run is defined by its experiment; processes only share its work. Every process reads the same whole batch, with the
same flips and the same dequantisation, and takes its share of the rows; gradients are summed. So nothing of a run, not
its batch size nor its learning rate, depends on how many processes there are. DistributedDataParallel is not used: it
wants one loss that goes through `forward`, and a GAN has two, one with a gradient of a gradient. A sum after the
backward pass is right for all, and costs what is not overlapped with it: a few milliseconds for 100 MB.

What is equal. With S shares a batch's loss is the mean over S parts, each with noise of its own:

- N processes do exactly what one process does with `shares=N`, for every loss: data, noise, dropout, players,
  penalties, running statistics. On a CPU bit for bit where a sum has two terms (two shares, one batch a step), else up
  to the order of a sum.
- Against one process with `shares=1` the batches are the same, and so is the gradient of every loss that is a mean of
  terms each of which sees one example, given the same noise, up to rounding. The noise itself is another draw of the
  same law. Not the same: what a loss computes over a whole batch. Statistics of batch normalisation, optimal-transport
  pairings and low-discrepancy times are those of a share; running statistics are averaged over the shares.
- A layer that initialises itself from the first batch (ActNorm) sees the whole of it, however many shares there are.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gmbook.data.batches import generator

Play = Callable[[tuple[Tensor, ...], float], Tensor]  # a share of a batch and its weight -> its weighted loss, ()


class Alone(RuntimeError):
    """Another process of the run has ended, and this one cannot go on."""


@contextlib.contextmanager
def joined(patience: timedelta = timedelta(minutes=10)) -> Iterator[None]:
    """Within it this process is one of those that torchrun started; alone, nothing happens.

    NCCL on GPUs, one per process, otherwise gloo.

    Args:
        patience: how long to wait for a process that does not answer before the run ends with an error.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        yield
        return
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if gpu else "gloo", timeout=patience)
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


def add_up(tensors: list[Tensor]) -> None:
    """Replace each tensor, in place, by its sum over all processes: one message per dtype.

    Raises:
        Alone: another process has ended or does not answer.
    """
    if world() == 1:
        return
    for dtype in dict.fromkeys(t.dtype for t in tensors):  # in the same order everywhere
        group = [t for t in tensors if t.dtype == dtype]
        flat = torch.cat([t.reshape(-1) for t in group])
        try:
            dist.all_reduce(flat)
        except RuntimeError as error:
            raise Alone("another process of this run has ended or hangs: see what it printed; then --resume") from error
        for tensor, part in zip(group, flat.split([t.numel() for t in group]), strict=True):
            tensor.copy_(part.view(tensor.shape))


def anywhere(flag: bool, device: torch.device) -> bool:
    """Whether the flag is up in any process."""
    if world() == 1:
        return flag
    votes = torch.tensor(float(flag), device=device)
    add_up([votes])
    return bool(votes > 0)


def agree(number: int, device: torch.device) -> bool:
    """Whether all processes have the same number."""
    sums = torch.tensor([number, number**2], dtype=torch.float64, device=device)
    add_up([sums])
    mean, square = (sums / world()).tolist()
    return mean == number and square == number**2


def follow_main(tensors: list[Tensor]) -> None:
    """Overwrite tensors, in place, with those of the first process."""
    if world() > 1:
        for tensor in tensors:
            copy = tensor.detach().clone(memory_format=torch.contiguous_format)
            dist.broadcast(copy, 0)
            tensor.detach().copy_(copy)


# ------------------------------------------------------------------------------------------------------- shares


def shares_of(wanted: int) -> int:
    """Into how many shares a batch is cut: as many as wanted if the processes can divide them, else one for each."""
    return wanted if wanted % world() == 0 else world()


def share(batch: tuple[Tensor, ...], index: int, shares: int) -> tuple[tuple[Tensor, ...], float]:
    """Rows number `index` of `shares` nearly equal parts, and which fraction of all rows they are.

    Raises:
        ValueError: there are fewer rows than shares.
    """
    rows = len(batch[0])
    if rows < shares:
        raise ValueError(f"a batch of {rows} cannot be cut into {shares} shares: use fewer processes or shares")
    part = tuple(t.tensor_split(shares)[index] for t in batch)
    return part, len(part[0]) / rows


@contextlib.contextmanager
def noise_of(*key: int) -> Iterator[None]:
    """Within it torch's default generators begin where the key says; afterwards they are where they were."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(generator(*key).initial_seed())
        yield


def backward_in_shares(
    play: Play, group: list[tuple[Tensor, ...]], model: nn.Module, parameters: list[nn.Parameter], shares: int
) -> Tensor:
    """Leave the gradient over a group of batches, summed over all shares and processes, in `parameters`.

    Args:
        play: computes a share's weighted loss and adds its gradient.
        group: the whole batches; the same in every process.
        shares: a multiple of the number of processes, which take turns.

    Returns:
        The sum of the weighted losses, (), the same in every process.
    """
    key = int(torch.randint(2**62, ()))  # the processes' generators are in step: the same key in all
    state = _moved_by_forward(model)
    start = [t.clone() for t in state]
    moves = [torch.zeros_like(t) for t in state]
    total: Tensor | None = None
    for turn in range(rank(), shares * len(group), world()):
        index, batch = turn % shares, group[turn // shares]
        part, weight = share(batch, index, shares)
        for tensor, value in zip(state, start, strict=True):
            tensor.copy_(value)
        with noise_of(key, turn):
            loss = play(part, weight)
        total = loss if total is None else total + loss
        for move, tensor, value in zip(moves, state, start, strict=True):
            move.add_(tensor - value, alpha=weight / len(group))
    assert total is not None  # shares are at least as many as processes
    used = torch.tensor([p.grad is not None for p in parameters], dtype=torch.float32, device=total.device)
    for p in parameters:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    add_up([total, used, *(p.grad for p in parameters if p.grad is not None), *moves])
    for p, uses in zip(parameters, used.tolist(), strict=True):
        p.grad = p.grad if uses else None  # as in one process: what no loss uses is not moved
    for tensor, value, move in zip(state, start, moves, strict=True):
        tensor.copy_(value + move)
    return total


def first_look(play: Play, batch: tuple[Tensor, ...], model: nn.Module) -> None:
    """Show a model its whole first batch, without a gradient: layers such as ActNorm set themselves by it, and then
    are the same in every process. Statistics are put back; flags, which say that it happened, stay."""
    before = [b.clone() for b in model.buffers()]
    with noise_of(int(torch.randint(2**62, ()))), torch.no_grad():
        play(batch, 1.0)
    for buffer, value in zip(model.buffers(), before, strict=True):
        if buffer.dtype != torch.bool:
            buffer.copy_(value)


def _moved_by_forward(model: nn.Module) -> list[Tensor]:
    """What a forward pass may change: floating buffers, and parameters without a gradient."""
    frozen = [p.data for p in model.parameters() if not p.requires_grad]
    return [*(b for b in model.buffers() if b.is_floating_point()), *frozen]
