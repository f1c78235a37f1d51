"""Two processes are one: the same losses and weights, for every kind of loss; and no process waits for a dead one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import two_processes as both
from safetensors.torch import load_file
from torch import Tensor

from gmbook.train import processes
from gmbook.train.checkpoint import newest_checkpoint


def free_ports(count: int) -> list[str]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [str(s.getsockname()[1]) for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    """The folder that two processes have written into, by gloo on the CPU."""
    folder, ports = tmp_path_factory.mktemp("pair"), free_ports(2)
    source = str(Path(__file__).parents[2] / "src")
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, both.__file__, str(folder)]
    ranks = [
        subprocess.Popen([*command, str(rank), *ports], env=environment, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=180)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 7], "\n".join(errors)  # the second one dies at the end
    return folder


def results(pair: Path, name: str) -> dict[str, Tensor]:
    """What both processes gave, which must be the same."""
    first, second = (load_file(pair / f"{name} {rank}.safetensors") for rank in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    return first


@pytest.mark.parametrize("name", both.MODELS)
def test_two_processes_are_one_with_two_shares_bit_for_bit(pair, name):
    """Noise, dropout, two players, gradients of gradients, running statistics, first-batch initialisation."""
    torch.testing.assert_close(both.run(name, shares=2), results(pair, name), rtol=0, atol=0)


def test_shares_may_be_more_than_processes_and_uneven(pair):
    """Eight turns of two batches: each process adds four, and the sum is in another order."""
    torch.testing.assert_close(
        both.run("dropout", shares=4, accumulate=2), results(pair, "four shares"), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", both.SAME_LAW)
def test_two_processes_are_one_process_with_the_whole_batch(pair, name):
    """Given the same noise, halves of a batch in two processes give the whole batch's losses and weights."""
    expected, found = both.run_on_one_draw(name), results(pair, f"one draw, {name}")
    torch.testing.assert_close(expected, found, rtol=1e-4, atol=1e-5)
    losses = [value for key, value in found.items() if key.startswith("losses/")]
    assert len(losses) >= 6 and len({float(value) for value in losses}) == len(losses)


def test_without_the_same_noise_they_differ():
    """The test above can fail: another share's noise is seen in the losses."""
    one, two = (both.run("ddpm", shares=shares) for shares in (1, 2))
    assert abs(one["losses/0/loss"] - two["losses/0/loss"]) > 1e-3


def test_a_first_batch_initialises_as_in_one_process():
    """ActNorm sees the whole first batch, in every share: both starts are the same, and so is the first batch."""
    one, two = (both.run("actnorm", shares=shares) for shares in (1, 2))
    assert torch.equal(one["losses/0/loss"].isfinite(), torch.tensor(True))
    torch.testing.assert_close(one["losses/0/loss"], two["losses/0/loss"], rtol=1e-4, atol=1e-5)


def test_a_parameter_that_no_loss_uses_is_not_moved():
    """Not even by weight decay: as where no share is taken."""
    for shares in (1, 2):
        assert torch.equal(both.run("dropout", shares=shares)["idle"], torch.ones(3))


def test_a_run_goes_from_two_processes_to_one_and_back(pair):
    """The shares stay two, so that the lone process goes on exactly as the pair would have: bit for bit."""
    torch.testing.assert_close(results(pair, "changing"), results(pair, "whole"), rtol=0, atol=0)
    assert newest_checkpoint(pair / "changing")[1]["shares"] == 2


def test_one_process_writes(pair):
    names = sorted(file.name for file in (pair / "whole").iterdir())
    assert names == [f"step-{step:08d}.{ext}" for step in (9, 12) for ext in ("json", "safetensors")]


def messages(pair: Path, name: str) -> list[str]:
    return [(pair / f"{name} {rank}.txt").read_text() for rank in range(2)]


def test_ctrl_c_in_one_process_stops_both_at_the_same_step(pair):
    for message in messages(pair, "interrupted"):
        assert message.startswith("KeyboardInterrupt: stopped and saved at step 6"), message
    assert newest_checkpoint(pair / "interrupted")[0] == 6


def test_processes_that_see_different_folders_are_told(pair):
    for message in messages(pair, "elsewhere"):
        assert "need one shared folder" in message, message


def test_too_small_a_batch_is_told(pair):
    assert (
        messages(pair, "too small")
        == ["ValueError: a batch of 1 cannot be cut into 2 shares: use fewer processes or shares"] * 2
    )


def test_a_process_that_dies_ends_the_run_of_the_other(pair):
    message = (pair / "dies 0.txt").read_text()
    assert message.startswith("Alone: another process of this run has ended"), message


def test_the_shares_stay_where_the_processes_divide_them(monkeypatch):
    for world, wanted, expected in ((1, 1, 1), (1, 4, 4), (2, 4, 4), (4, 4, 4), (3, 4, 3), (8, 4, 8), (2, 1, 2)):
        monkeypatch.setattr(processes, "world", lambda world=world: world)
        assert processes.shares_of(wanted) == expected
