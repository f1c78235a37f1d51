"""The training loop against plain torch written out by hand, and its promises: EMA, players, NaN, kill and resume."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gmbook.core.model import Model, Objective
from gmbook.train import EMA, Diverged, Recipe, fit, loop, schedule, train
from gmbook.train.checkpoint import checkpoints, newest_checkpoint, save_checkpoint
from gmbook.train.optimizers import MuonAndAdam


class Regression(Model):
    """A small network with dropout, so that the random state matters too."""

    shape = (3,)

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 1))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.net(x) - y).square().mean()


class Duel(Model):
    """Two players on one shared product a·b: each may move its own factor only."""

    shape = (1,)

    def __init__(self, every: int = 1):
        super().__init__()
        self.a, self.b, self.every = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([2.0])), every

    def objectives(self) -> dict[str, Objective]:
        value = lambda x: (self.a * self.b * x).mean()  # noqa: E731
        return {
            "low": Objective(value, [self.a]),
            "high": Objective(lambda x: -value(x), [self.b], self.every),
        }


def batch(n: int = 32, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator)
    return x, x.sum(1, keepdim=True).sin()


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    return [batch(seed=i) for i in range(count)]


def same_start(build=Regression) -> tuple[Model, Model]:
    ours, plain = build(), build()
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def by_hand(model: Regression, data, lr, clip=None, weight_decay=0.0) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr(0), weight_decay=weight_decay, foreach=False)
    losses = []
    for step, (x, y) in enumerate(data):
        optimizer.param_groups[0]["lr"] = lr(step)
        loss = model.loss(x, y)
        optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
            for p in model.parameters():
                p.grad *= min(1.0, clip / (norm + 1e-6))
        optimizer.step()
        losses.append(loss.item())
    return losses


def assert_same_weights(a: nn.Module, b: nn.Module, **tolerance: float) -> None:
    torch.testing.assert_close(dict(a.state_dict()), dict(b.state_dict()), **tolerance)


@pytest.mark.parametrize("clip", [None, 0.05])
def test_train_equals_the_loop_written_by_hand(clip):
    ours, plain = same_start()
    losses = [step["loss"].item() for step in train(ours, batches(20), steps=20, lr=1e-2, clip=clip, weight_decay=0.1)]
    expected = by_hand(plain, batches(20), lambda step: 1e-2, clip, weight_decay=0.1)
    assert_same_weights(ours, plain, rtol=1e-4, atol=1e-6)
    assert losses == pytest.approx(expected, rel=1e-4)
    assert losses[-1] < losses[0]


def test_warmup_and_decay_shape_the_learning_rate():
    ours, plain = same_start()
    list(train(ours, batches(20), steps=20, lr=1e-2, warmup=5, decay="cosine"))
    by_hand(plain, batches(20), lambda k: 1e-2 * ((k + 1) / 5 if k < 5 else math.cos(math.pi * (k - 5) / 30) ** 2))
    assert_same_weights(ours, plain, rtol=1e-4, atol=1e-6)
    factor = schedule(100, warmup=10, decay="linear")
    assert [factor(0), factor(9), factor(10), factor(55)] == pytest.approx([0.1, 1.0, 1.0, 0.5])


@pytest.mark.parametrize("parts", [2, 3, 32])  # 32 rows do not divide by three
def test_accumulating_parts_is_one_whole_batch(parts):
    whole, halves = same_start()
    one = [step["loss"] for step in train(whole, batches(10), steps=10, lr=1e-2)]
    two = [step["loss"] for step in train(halves, batches(10), steps=10, lr=1e-2, accumulate=parts)]
    torch.testing.assert_close(one, two)
    assert_same_weights(whole, halves, rtol=1e-4, atol=1e-6)


def test_any_optimizer_may_be_given():
    ours, plain = same_start()
    list(train(ours, batches(3), steps=3, lr=0.1, optimizer=lambda p: torch.optim.SGD(p, lr=1.0)))
    for x, y in batches(3):
        grads = torch.autograd.grad(plain.loss(x, y), list(plain.parameters()))
        with torch.no_grad():
            for p, grad in zip(plain.parameters(), grads):
                p -= 0.1 * grad
    assert_same_weights(ours, plain)


def test_players_move_only_their_own_parameters_and_only_in_turn():
    sgd = lambda p: torch.optim.SGD(p, lr=1.0)  # noqa: E731
    duel, one = Duel(every=3), (torch.ones(4, 1),)
    a, b, played = 1.0, 2.0, []
    rates = {"low": 0.1, "high": 0.2}
    for step, losses in enumerate(train(duel, [one], steps=7, lr=rates, optimizer=sgd)):
        a -= 0.1 * b  # the second player answers to the first one's move
        b += 0.2 * a if step % 3 == 0 else 0.0
        played.append(set(losses))
        assert (duel.a.item(), duel.b.item()) == pytest.approx((a, b), rel=1e-5)
    assert [len(names) for names in played] == [2, 1, 1, 2, 1, 1, 2]
    list(train(duel, [one], steps=2, objectives={"low": duel.objectives()["low"]}))
    assert duel.b.item() == pytest.approx(b, rel=1e-5)


def test_bf16_runs_close_to_float32_and_leaves_float32_weights():
    ours, plain = same_start()
    list(train(ours, batches(5), steps=5, lr=1e-2, bf16=True))
    list(train(plain, batches(5), steps=5, lr=1e-2))
    assert all(p.dtype == torch.float32 for p in ours.parameters())
    assert_same_weights(ours, plain, rtol=0.2, atol=3e-2)


def test_ema_is_its_closed_form():
    model = nn.Linear(1, 1, bias=False)
    ema = EMA(model, decay=0.8, warmup=False)
    start, values = model.weight.item(), [0.5, -1.0, 3.0, 2.0]
    for value in values:
        nn.init.constant_(model.weight, value)
        ema.update(model)
    expected = 0.8**4 * start + sum(0.2 * 0.8 ** (3 - k) * value for k, value in enumerate(values))
    with ema.swapped(model) as averaged:
        assert averaged.weight.item() == pytest.approx(expected, abs=1e-6)
    assert model.weight.item() == 2.0
    ema.copy_to(model)
    assert model.weight.item() == pytest.approx(expected, abs=1e-6)


def test_ema_warms_up_and_copies_buffers():
    model = nn.BatchNorm1d(2)
    nn.init.zeros_(model.weight)
    ema = EMA(model, decay=0.5)
    nn.init.ones_(model.weight)
    kept = 1.0
    for n in range(20):  # weights 0 at first, then always 1: the average is 1 minus the product of the decays
        model.running_mean.fill_(n)
        ema.update(model)
        kept *= min(0.5, (1 + n) / (10 + n))
        with ema.swapped(model):
            assert model.weight[0].item() == pytest.approx(1 - kept, abs=1e-6)
            assert model.running_mean[0].item() == n


def test_an_average_is_read_that_was_saved_before_a_table_came():
    model = nn.BatchNorm1d(2)
    saved = EMA(model).state_dict()
    model.register_buffer("table", torch.ones(3), persistent=False)
    ema = EMA(model)
    ema.load_state_dict(saved)
    assert torch.equal(ema.buffers["table"], torch.ones(3))
    with pytest.raises(KeyError, match="bias"):
        ema.load_state_dict(saved | {"weights": {"weight": torch.ones(2)}})


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_names_step_and_objective(bad, tmp_path):
    data = batches(10)
    data[7] = (data[7][0] * bad, data[7][1])
    with pytest.raises(Diverged, match=r"'loss' is (nan|inf) at step 7.*step 6.*kept"):
        fit(Regression(), data, steps=10, folder=tmp_path, save_every=3, progress=False)
    step, state = newest_checkpoint(tmp_path)
    assert step == 6
    assert all(tensor.isfinite().all() for tensor in state["model"].values())


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    model = Regression()
    with pytest.raises(Diverged, match="net.*NaN or infinite after step 0"):
        fit(model, batches(4), steps=4, lr=math.inf, folder=tmp_path, save_every=1, progress=False)
    assert not checkpoints(tmp_path)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 0}, ValueError, "at least 1"),
        ({"clip": 0.0}, ValueError, "clip"),
        ({"accumulate": 0}, ValueError, "at least 1"),
        ({"decay": "cosin"}, ValueError, "constant, linear, cosine"),
        ({"objectives": {"idle": Objective(lambda *_: torch.zeros(()), [])}}, ValueError, "'idle'"),
    ],
)
def test_bad_arguments_give_one_clear_error(options, error, message):
    with pytest.raises(error, match=message):
        next(train(Regression(), batches(1), **{"steps": 1, **options}))


def test_bad_batches_give_one_clear_error():
    with pytest.raises(TypeError, match="tuples"):
        next(train(Regression(), [batch()[0]], steps=1))
    with pytest.raises(ValueError, match="ended"):
        list(train(Regression(), (batch() for _ in range(2)), steps=3))


def test_fit_returns_the_history_of_every_player():
    history = fit(Duel(every=2), [(torch.ones(4, 1),)], steps=5, lr=0.1, progress=False)
    assert history["low"].shape == history["high"].shape == (5,)
    assert history["high"].isnan().tolist() == [False, True, False, True, False]
    assert history["low"][0] == 2.0


@pytest.mark.parametrize("optimizer", [None, MuonAndAdam(least=2)], ids=["adam", "muon"])
def test_resumed_in_one_process_equals_uninterrupted(tmp_path, optimizer):
    def run(folder: Path, stops: list[int]) -> tuple[Model, EMA, dict]:
        for stop in stops:
            torch.manual_seed(0)
            model = Regression(dropout=0.5)
            ema = EMA(model, 0.9)
            options = dict(lr=1e-2, ema=ema, clip=1.0, save_every=4, progress=False, optimizer=optimizer)
            history = fit(model, [batch()], steps=stop, folder=folder, resume=True, **options)
            torch.randn(7)  # a disturbance between the runs: the checkpoint brings the generator back
        return model, ema, history

    (a, ema_a, history_a), (b, ema_b, history_b) = run(tmp_path / "a", [20]), run(tmp_path / "b", [3, 8, 13, 20])
    for one, two in ((a.state_dict(), b.state_dict()), (ema_a.state_dict(), ema_b.state_dict())):
        torch.testing.assert_close(dict(one), dict(two), rtol=0, atol=0)
    assert torch.equal(history_a["loss"], history_b["loss"])
    assert [file.name for file in checkpoints(tmp_path / "b")] == ["step-00000020.json", "step-00000016.json"]


def test_a_folder_with_a_run_is_not_overwritten_and_not_mixed(tmp_path):
    fit(Regression(), [batch()], steps=2, folder=tmp_path, progress=False)
    with pytest.raises(FileExistsError, match="resume"):
        fit(Regression(), [batch()], steps=4, folder=tmp_path, progress=False)
    with pytest.raises(RuntimeError, match="another model"):
        fit(Duel(), [batch()], steps=4, folder=tmp_path, resume=True, progress=False)
    with pytest.raises(RuntimeError, match="without ema"):
        model = Regression()
        fit(model, [batch()], steps=4, folder=tmp_path, resume=True, progress=False, ema=EMA(model))


FORKS = """
import os, sys, traceback
import torch
from torch import nn
from gmbook.core.model import Model
from gmbook.train import EMA, fit, train

class Net(Model):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    def loss(self, x):
        return (self.net(x) - x.sum(1, keepdim=True)).square().mean()

class Data:  # draws from torch's generator, and has a place to come back to
    def __init__(self):
        self.place = 0
    def __iter__(self):
        while True:
            self.place += 1
            yield (torch.randn(16, 3) + self.place / 100,)
    def state_dict(self):
        return {"place": self.place}
    def load_state_dict(self, state):
        self.place = state["place"]

def run(folder, steps):
    torch.manual_seed(0)
    model = Net()
    ema = EMA(model)
    fit(model, Data(), steps=int(steps), folder=folder, resume=True, save_every=3, ema=ema, lr=1e-2, progress=False)

next(train(Net(), Data(), steps=1))  # torch's first optimizer step imports for seconds: once here, not in every fork
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            run(*line.rstrip().split("|"))
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Forks:
    """Runs `fit` in processes that may be killed; forked from one that has imported torch, since that is slow."""

    def __init__(self, errors: Path):
        source = str(Path(__file__).parents[2] / "src")
        environment = {"PYTHONPATH": source, "OMP_NUM_THREADS": "1", "PATH": ""}
        self.errors, pipes = errors, {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        command = [sys.executable, "-c", FORKS]
        self.server = subprocess.Popen(command, env=environment, stderr=errors.open("w"), bufsize=1, **pipes)

    def start(self, folder: Path, steps: int) -> int:
        self.server.stdin.write(f"{folder}|{steps}\n")
        return int(self.server.stdout.readline())

    def wait(self) -> int:
        return int(self.server.stdout.readline())


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    forks = Forks(tmp_path_factory.mktemp("forks") / "errors.txt")
    yield forks
    forks.server.stdin.close()
    forks.server.wait(timeout=30)


def wait_for_a_save(folder: Path, before: list[Path]) -> None:
    deadline = time.monotonic() + 30
    while checkpoints(folder) == before:
        assert time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.001)


def test_killed_ten_times_at_random_moments_a_run_ends_bit_identical(tmp_path, forks):
    steps, pick, killed = 240, random.Random(0), tmp_path / "killed"
    moments = []
    for _ in range(10):
        before = checkpoints(killed)
        child = forks.start(killed, steps)
        wait_for_a_save(killed, before)  # so that each life takes the run some way on
        time.sleep(pick.uniform(0, 0.01))
        os.kill(child, signal.SIGKILL)
        assert forks.wait() == -signal.SIGKILL, forks.errors.read_text()
        moments.append(newest_checkpoint(killed)[0])
    for folder in (killed, tmp_path / "whole"):
        forks.start(folder, steps)
        assert forks.wait() == 0, forks.errors.read_text()
    assert moments == sorted(moments) and moments[-1] < steps
    (step_a, a), (step_b, b) = (newest_checkpoint(tmp_path / name) for name in ("whole", "killed"))
    assert step_a == step_b == steps
    assert a.pop("seconds") > 0 and b.pop("seconds") > 0  # the only thing that may differ
    assert a.pop("recipe") == b.pop("recipe")
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_ctrl_c_saves_and_says_how_to_resume(tmp_path, forks):
    child = forks.start(tmp_path, 10**6)
    wait_for_a_save(tmp_path, [])
    os.kill(child, signal.SIGINT)
    assert forks.wait() == 1
    step, _ = newest_checkpoint(tmp_path)
    assert f"stopped and saved at step {step} in {tmp_path}; resume=True" in forks.errors.read_text()


# ------------------------------------------------------------------------------------------- recipes, resumption


def test_a_recipe_and_keywords_are_one_run():
    ours, plain = same_start()
    recipe = Recipe(steps=8, lr=1e-2, warmup=2, decay="linear", clip=0.1, weight_decay=0.1, ema_decay=0.9)
    list(train(ours, batches(8), recipe))
    list(train(plain, batches(8), steps=8, lr=1e-2, warmup=2, decay="linear", clip=0.1, weight_decay=0.1))
    assert_same_weights(ours, plain, rtol=0, atol=0)
    assert len(list(train(ours, batches(8), recipe, steps=3))) == 3
    with pytest.raises(TypeError, match="decai"):
        train(ours, batches(1), steps=1, decai="cosine")
    with pytest.raises(ValueError, match="no rate for the objective 'high'"):
        train(Duel(), batches(1), steps=1, lr={"low": 0.1})
    with pytest.raises(ValueError, match="those of Adam"):
        Recipe(steps=1, weight_decay=0.1, optimizer=MuonAndAdam())


def test_one_step_is_a_run():
    for decay in ("constant", "linear", "cosine"):
        assert Recipe(steps=1, lr=0.5, decay=decay).rate("loss", 0) == 0.5
    assert Recipe(steps=1, lr=0.5, warmup=10, decay="cosine").rate("loss", 0) == pytest.approx(0.05)
    assert fit(Regression(), [batch()], steps=1, progress=False)["loss"].shape == (1,)


def test_the_rate_of_a_resumed_run_is_not_bent(tmp_path, capsys):
    options = {"lr": 1e-2, "folder": tmp_path, "progress": False}
    fit(Regression(), [batch()], steps=4, decay="cosine", **options)
    with pytest.raises(ValueError, match=r"begun with 4 steps.*Resume it with 4 steps"):
        fit(Regression(), [batch()], steps=6, decay="cosine", resume=True, **options)
    with pytest.raises(ValueError, match="at step 4 already, beyond the 3 steps"):
        fit(Regression(), [batch()], steps=3, resume=True, **options)
    assert newest_checkpoint(tmp_path)[0] == 4
    capsys.readouterr()
    fit(Regression(), [batch()], steps=6, resume=True, **options)  # said: another recipe from here on
    assert "decay = constant (so far cosine)" in capsys.readouterr().err
    assert newest_checkpoint(tmp_path)[1]["recipe"]["steps"] == 6


def test_a_checkpoint_without_a_recipe_is_read(tmp_path):
    """As gmbook wrote it before there were recipes: with shares."""
    fit(Regression(), [batch()], steps=4, folder=tmp_path / "new", progress=False)
    step, state = newest_checkpoint(tmp_path / "new")
    del state["recipe"]
    save_checkpoint(tmp_path / "old", step, state | {"shares": 2})
    histories = [
        fit(Regression(), [batch()], steps=6, folder=tmp_path / name, resume=True, progress=False)["loss"]
        for name in ("old", "new")
    ]
    assert torch.equal(*histories) and histories[0].shape == (6,)


# ------------------------------------------------------------------------------ numbers that a GPU is not asked for


class Asked(TorchFunctionMode):
    """Counts how often a tensor is turned into numbers, for which a GPU would have to be waited for."""

    NAMES = {"item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "__contains__"}
    count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += getattr(func, "__name__", "") in self.NAMES
        return func(*args, **(kwargs or {}))


def as_on_a_gpu(monkeypatch, every: int = 5) -> None:
    plain = loop.FiniteLosses
    monkeypatch.setattr(loop, "FiniteLosses", lambda device: plain(device, every))


@pytest.mark.parametrize("model", [Regression, lambda: Duel(every=2)], ids=["regression", "duel"])
def test_no_step_waits_for_a_gpu_between_two_looks(monkeypatch, model):
    as_on_a_gpu(monkeypatch, every=5)
    made = model()
    data = batches(10) if "net" in dict(made.named_children()) else [(torch.ones(4, 1),)]
    steps = train(made, data, steps=10, lr=1e-2, clip=1.0, warmup=3, decay="cosine", ema_decay=0.9, accumulate=2)
    asked = []
    for _ in range(10):
        with Asked() as mode:
            next(steps)
        asked.append(mode.count)
    quiet = [count for step, count in enumerate(asked) if step % 5 != 4]
    assert quiet == [0] * 8, asked
    assert asked[4] > 0 and asked[9] > 0, asked


def test_what_asks_for_a_number_is_counted():
    x = torch.ones(())
    for ask in (bool, float, int, Tensor.item, Tensor.tolist, lambda x: x in [x + 1], math.isfinite):
        with Asked() as mode:
            ask(x)
        assert mode.count == 1, ask


def test_on_a_cpu_every_loss_is_looked_at():
    steps = train(Regression(), batches(3), steps=3)
    with Asked() as mode:
        list(steps)
    assert mode.count >= 3


def test_fit_asks_for_no_number_between_its_looks(monkeypatch, tmp_path):
    as_on_a_gpu(monkeypatch, every=50)
    asked = []

    def watched():
        with Asked() as mode:
            for pair in batches(25):
                before = mode.count
                yield pair
                asked.append(mode.count - before)

    fit(Regression(), watched(), steps=25, lr=1e-2, progress=False, log=lambda step, means: None)
    assert [step for step, count in enumerate(asked) if count] == [9, 19], asked  # the logbook's every tenth step


def test_a_loss_that_is_seen_late_names_its_step_and_the_range(monkeypatch):
    as_on_a_gpu(monkeypatch, every=5)
    data = batches(20)
    data[7] = (data[7][0] * math.nan, data[7][1])
    seen = []
    with pytest.raises(Diverged, match=r"'loss' is nan at step 7 \(looked at between steps 5 and 9\)"):
        for losses in train(Regression(), data, steps=20):
            seen.append(losses)
    assert len(seen) == 9


def test_the_last_steps_are_looked_at_too(monkeypatch):
    as_on_a_gpu(monkeypatch, every=50)
    data = [(x * math.nan, y) for x, y in batches(3)]
    with pytest.raises(Diverged, match="at step 0"):
        list(train(Regression(), data, steps=3))


def test_what_is_not_finite_is_not_saved_between_two_looks(monkeypatch, tmp_path):
    as_on_a_gpu(monkeypatch, every=50)
    data = batches(10)
    data[3] = (data[3][0] * math.nan, data[3][1])
    with pytest.raises(Diverged):
        fit(Regression(), data, steps=10, folder=tmp_path, save_every=2, progress=False)
    assert newest_checkpoint(tmp_path)[0] == 2
