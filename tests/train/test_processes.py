"""Two processes by gloo: one process's losses and weights given its noise, and no process waits for a dead one."""

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
def test_both_processes_have_the_same_losses_weights_averages_and_buffers(pair, name):
    """Noise, dropout, two players, gradients of gradients, batch statistics, first-batch initialisation."""
    found = results(pair, name)
    assert all(value.isfinite().all() for value in found.values())
    assert any(key.startswith("average/") for key in found)


@pytest.mark.parametrize("name", both.SAME_LAW)
def test_two_processes_are_one_process_with_the_whole_batch(pair, name):
    """Given the same noise, halves of a batch in two processes give the whole batch's losses and weights."""
    expected, found = both.run_on_one_draw(name, optimizer=both.optimizer(name)), results(pair, f"one draw, {name}")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    losses = [value for key, value in found.items() if key.startswith("losses/")]
    assert len(losses) >= 6 and len({float(value) for value in losses}) == len(losses)


def test_parts_in_two_processes_are_one_whole_batch_too(pair):
    """Quarters of 8, 8, 7 and 7 rows: each weighs what it is worth."""
    torch.testing.assert_close(results(pair, "two parts each"), both.run_on_one_draw("shared"), rtol=1e-4, atol=1e-5)


def test_each_process_draws_noise_of_its_own(pair):
    """The first loss is the mean over two halves whose noise begins at two seeds."""
    found = results(pair, "ddpm")
    torch.manual_seed(0)
    model = both.MODELS["ddpm"]()
    (x,) = next(iter(both.LawBatches(both.plane.moons(), both.SIZE)))
    model.loss(x)  # the look at the first batch draws, too
    seed, halves = int(torch.randint(2**62, ())), []
    for rank, half in enumerate(x.tensor_split(2)):
        torch.manual_seed(seed + rank)
        halves.append(model.loss(half).detach())
    torch.testing.assert_close(found["losses/0/loss"], torch.stack(halves).mean())


@pytest.mark.parametrize("accumulate", [2, 3])
def test_a_first_batch_initialises_as_if_it_were_whole(accumulate):
    """ActNorm sees the whole first batch, in however many parts it is computed: the first losses are the same."""
    one, parts = both.run("actnorm"), both.run("actnorm", accumulate=accumulate)
    torch.testing.assert_close(one["losses/0/loss"], parts["losses/0/loss"], rtol=1e-4, atol=1e-5)


def test_a_parameter_that_no_loss_uses_is_not_moved(pair):
    """Not even by weight decay."""
    for found in (both.run("dropout"), both.run("dropout", accumulate=2), results(pair, "dropout")):
        assert torch.equal(found["idle"], torch.ones(3))


def test_running_statistics_are_those_of_the_first_process(pair):
    """Half of the batch moves them, as often as there are steps."""
    found = results(pair, "running")
    assert int(found["net.1.num_batches_tracked"]) == 6
    assert not torch.allclose(found["net.1.running_mean"], torch.zeros(16))


def test_two_processes_resume_bit_for_bit(pair):
    torch.testing.assert_close(results(pair, "parts"), results(pair, "whole"), rtol=0, atol=0)


def test_a_run_goes_from_two_processes_to_one_and_back(pair):
    """Four steps of two processes are those of the whole run; then another number draws other noise."""
    changing, whole = results(pair, "changing"), results(pair, "whole")
    assert torch.equal(changing["loss"][:4], whole["loss"][:4])
    assert changing["loss"].shape == whole["loss"].shape and changing["loss"].isfinite().all()
    assert not torch.equal(changing["loss"][4:], whole["loss"][4:])
    step, state = newest_checkpoint(pair / "changing")
    assert step == 12 and state["batches"]["step"] == 12


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
    for message in messages(pair, "too small"):
        assert message.startswith("ValueError: a batch of 1 cannot be cut into 2 parts (2 processes, accumulate = 1)")


def test_a_process_that_dies_ends_the_run_of_the_other(pair):
    message = (pair / "dies 0.txt").read_text()
    assert message.startswith("ProcessLost: another process of this run has ended"), message
