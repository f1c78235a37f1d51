"""The command `gmbook`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from gmbook import doctor, experiments
from gmbook.core.model import Model
from gmbook.course import cli as course
from gmbook.data import download
from gmbook.experiments import own, results, runs
from gmbook.experiments.base import Experiment, default_budget
from gmbook.metrics.metric import to_json
from gmbook.train import processes
from gmbook.train.checkpoint import write_atomically

Act = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. What the user got wrong is one line on stderr and exit code 2."""
    arguments = parser().parse_args(argv)
    act: Act = arguments.act
    try:
        return act(arguments)
    except KeyboardInterrupt as stop:
        if processes.is_main():
            print(f"\n{stop or 'stopped'}", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError, ArithmeticError) as error:
        who = f"gmbook, process {processes.rank()}" if processes.world() > 1 else "gmbook"
        print(f"{who}: {error}", file=sys.stderr)
        return 2


def train(arguments: argparse.Namespace) -> int:
    """`gmbook train`: run an experiment, with checkpoints; under torchrun in several processes."""
    experiment = _chosen(arguments)
    folder = Path(arguments.out or f"runs/{experiment.name}-seed{arguments.seed}")
    if arguments.dry_run:
        return dry_run(experiment, folder, arguments.steps)
    options = {name: getattr(arguments, name) for name in ("seed", "steps", "save_every", "accumulate", "tensorboard")}
    with processes.process_group():
        if processes.is_main():
            print(heading(experiment, experiment.model(), arguments.steps, folder))
        runs.run(experiment, folder, resume=arguments.resume, **options)
        if processes.is_main():
            print(f"done; look at it with: gmbook sample {folder}")
    return 0


def heading(experiment: Experiment, model: Model, steps: int | None, folder: Path) -> str:
    """What is to be run, in two lines."""
    weights = sum(p.numel() for p in model.parameters())
    recipe = experiment.recipe
    steps = recipe.steps if steps is None else steps
    return (
        f"{experiment.name}: {weights / 1e6:.2f} M weights, {steps} steps of {recipe.batch_size}, "
        f"into {folder}\n"
        + (
            f"found: {experiment.facts['told']}"
            if experiment.facts
            else f"the paper's own setting: {experiment.reference}"
        )
    )


def dry_run(experiment: Experiment, folder: Path, steps: int | None) -> int:
    """`gmbook train --dry-run`: the plan; nothing is written."""
    if steps is not None and steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    print(heading(experiment, experiment.model(), steps, folder))
    plan, found = runs.plan(experiment, steps)
    print(plan.summary())
    if not found:
        print(f"{experiment.dataset} is not here, so noise of its shape was looked at: `gmbook data` lists what is")
    return 0


def sample(arguments: argparse.Namespace) -> int:
    """`gmbook sample`: a sheet of samples of a run, or of a recorded model."""
    recorded = _recorded(arguments.run)
    experiment = recorded or _of_run(arguments.run)
    if experiment.sample is None:
        raise ValueError(f"{experiment.name} makes no samples")
    model = results.load_pretrained(recorded) if recorded else runs.load(experiment, arguments.run)
    drawn = results.draw(experiment, model, arguments.per_class, arguments.seed)
    out = arguments.out or (Path(f"{recorded.name}.png") if recorded else arguments.run / "samples.png")
    write_atomically(out, experiment.sheet(drawn).png())
    print(f"wrote {out}")
    if experiment.table is not None:
        ending, content = experiment.table(drawn)
        write_atomically(out.with_suffix(ending), content.encode())
        print(f"wrote {out.with_suffix(ending)}")
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    """`gmbook evaluate`: the metrics of a run, or of a recorded model."""
    recorded = _recorded(arguments.run)
    experiment = recorded or _of_run(arguments.run)
    if experiment.evaluate is None:
        raise ValueError(f"{experiment.name} has no metrics yet; `gmbook sample {arguments.run}` shows samples")
    if arguments.n < 1:
        raise ValueError(f"--n must be at least 1, got {arguments.n}")
    torch.manual_seed(0)
    model = results.load_pretrained(recorded) if recorded else runs.load(experiment, arguments.run)
    report = experiment.evaluate(model, arguments.n)
    print(json.dumps(to_json(report), indent=1, ensure_ascii=False))
    return 0


def record(arguments: argparse.Namespace) -> int:
    """`gmbook record`: keep metrics, pictures and weights, in the repository or, of one's own data, beside the run."""
    print(results.record(_of_run(arguments.run), arguments.run, arguments.n).summary())
    return 0


def data(arguments: argparse.Namespace) -> int:
    """`gmbook data`: download data sets, or say which there are."""
    for name in arguments.names:
        download.entry(name)  # all names are known before the first download begins
    for name in arguments.names:
        there = download.available(name)
        print(f"{name} is {'there already:' if there else 'now in'} {download.fetch(name)}")
    if not arguments.names:
        for name in download.registry():
            print(f"{name:10} {download.look(name)[1]}")
    return 0


def listing(arguments: argparse.Namespace) -> int:
    """`gmbook list`: every experiment, and whether it was recorded."""
    lines = []
    for experiment in experiments.EXPERIMENTS:
        try:
            taken = results.seconds(experiment)
            done = f"recorded, {taken / 60:.0f} min" if taken >= 90 else f"recorded, {taken:.0f} s"
        except results.NoRecord:
            done = "not yet run"
        name = f"{experiment.paper:16} {experiment.dataset:16} {experiment.budget:7}"
        lines.append(f"{name} {experiment.recipe.steps:7} steps   {done}")
    sys.stdout.write("\n".join([*lines, ""]))  # one write, so that a reader such as `head` may leave early
    return 0


def _chosen(arguments: argparse.Namespace) -> Experiment:
    """The experiment that `gmbook train` names: one of the book's, or one on the data at a path."""
    dataset = Path(arguments.dataset)
    known = {experiment.dataset for experiment in experiments.EXPERIMENTS}
    if arguments.dataset not in known and (dataset.exists() or len(dataset.parts) > 1 or dataset.suffix):
        return own.experiment(arguments.paper, dataset, arguments.budget, arguments.size)
    if arguments.size is not None:
        raise ValueError(f"--size is for pictures of your own: {arguments.dataset} has its size")
    return experiments.find(arguments.paper, arguments.dataset, arguments.budget)


def _recorded(run: Path) -> Experiment | None:
    """The experiment whose recorded weights are meant, by its name or its folder in book/results; None for a run."""
    named = run.parent == Path() and not run.exists()
    known = {experiment.name: experiment for experiment in experiments.EXPERIMENTS}
    return known.get(run.name) if named or (run / "record.json").is_file() else None


def _of_run(folder: Path) -> Experiment:
    about = runs.read_run(folder)
    if "data" in about:
        return own.restore(about)
    return experiments.find(about["paper"], about["dataset"], about["budget"])


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(
        prog="gmbook", description="The textbook's command: data, training, samples, records."
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, act: Act, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help)
        sub.set_defaults(act=act)
        return sub

    command("doctor", lambda _: doctor.main(), "Say what is installed and which data sets are found.")
    command("list", listing, "List the book's experiments: paper, data set, budget, steps, and whether recorded.")

    sub = command("data", data, "Download data sets (checked, into GMBOOK_DATA or the cache), or list which are here.")
    sub.add_argument("names", nargs="*", metavar="name", help="mnist, cifar10 or text8; leave it out for a list")

    sub = command("train", train, "Train one of the book's models on a data set.")
    sub.add_argument("paper", help="whose model, for example ddpm; `gmbook list` names all")
    sub.add_argument(
        "dataset", help="for example digits or mnist; or the path of your own: a folder of pictures, a .csv, a .txt"
    )
    sub.add_argument("--size", type=int, help="of your own pictures, pixels of a side; found if it is not given")
    sub.add_argument("--budget", default=default_budget(), help="laptop (minutes, CPU) or gpu; default %(default)s")
    sub.add_argument("--seed", type=int, default=0, help="of weights, data order and noise; default 0")
    sub.add_argument("--steps", type=int, help="stop after this many steps instead of the experiment's own number")
    sub.add_argument("--out", help="the run's folder; default runs/<paper>-<dataset>-<budget>-seed<seed>")
    sub.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in the folder")
    sub.add_argument("--save-every", type=int, default=250, help="steps between checkpoints; default %(default)s")
    sub.add_argument("--accumulate", type=int, default=1, help="compute each batch in so many parts, to save memory")
    sub.add_argument("--tensorboard", action="store_true", help="log for TensorBoard, too: tensorboard --logdir runs")
    sub.add_argument("--dry-run", action="store_true", help="print the plan (arithmetic, memory, time), and stop")

    which = "the folder of a run of `gmbook train`; or a recorded model's name, as ddpm-mnist-laptop"
    sub = command(
        "sample", sample, "Draw a sheet of samples from a run, ten columns, one per class where it knows classes."
    )
    sub.add_argument("run", type=Path, help=which)
    sub.add_argument("--per-class", type=int, default=6, help="rows of the sheet; default %(default)s")
    sub.add_argument("--seed", type=int, default=0, help="of the noise; default 0")
    sub.add_argument(
        "--out", type=Path, help="the PNG to write; default samples.png in the run's folder, or <name>.png"
    )

    sub = command("evaluate", evaluate, "Print a run's metrics as JSON, each beside its noise floor or baseline.")
    sub.add_argument("run", type=Path, help=which)
    sub.add_argument("--n", type=int, default=1000, help="how many samples are judged; default %(default)s")

    course.add_to(command("course", lambda _: 2, "Hand out exercise sheets, and grade submissions."))

    sub = command("record", record, "Evaluate a finished run and keep metrics, pictures and weights in the repository.")
    sub.add_argument("run", type=Path, help="the folder of a run of `gmbook train`")
    sub.add_argument("--n", type=int, default=1000, help="how many samples are judged; default %(default)s")
    return top


if __name__ == "__main__":
    sys.exit(main())
