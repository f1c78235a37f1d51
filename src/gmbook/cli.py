"""The command `gmbook`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from gmbook import experiments
from gmbook.experiments import base


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. What the user got wrong is one line on stderr and exit code 2."""
    arguments = parser().parse_args(argv)
    act: Callable[[argparse.Namespace], int] = arguments.act
    try:
        return act(arguments)
    except KeyboardInterrupt as stop:
        print(f"\n{stop or 'stopped'}", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError, ArithmeticError) as error:
        print(f"gmbook: {error}", file=sys.stderr)
        return 2


def train(arguments: argparse.Namespace) -> int:
    """`gmbook train`: run an experiment, with checkpoints."""
    experiment = experiments.find(arguments.paper, arguments.dataset, arguments.budget)
    folder = Path(arguments.out or f"runs/{experiment.name}-seed{arguments.seed}")
    weights = sum(p.numel() for p in experiment.model().parameters())
    steps = arguments.steps or experiment.steps
    print(f"{experiment.name}: {weights / 1e6:.2f} M weights, {steps} steps of {experiment.size}, into {folder}")
    print(f"the paper's own setting: {experiment.reference}")
    if arguments.dry_run:
        return 0
    base.run(
        experiment,
        folder,
        seed=arguments.seed,
        steps=arguments.steps,
        resume=arguments.resume,
        save_every=arguments.save_every,
    )
    print(f"done; look at it with: gmbook sample {folder}")
    return 0


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(prog="gmbook", description="The textbook's command: data, training, samples.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, act: Callable[[argparse.Namespace], int], help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help)
        sub.set_defaults(act=act)
        return sub

    sub = command("train", train, "Train one of the book's models on a data set.")
    sub.add_argument("paper", help="whose model, for example ddpm; `gmbook list` names all")
    sub.add_argument("dataset", help="digits, mnist, cifar10 or text8")
    sub.add_argument(
        "--budget", default=base.default_budget(), help="laptop (minutes, CPU) or gpu; default %(default)s"
    )
    sub.add_argument("--seed", type=int, default=0, help="of weights, data order and noise; default 0")
    sub.add_argument("--steps", type=int, help="stop after this many steps instead of the experiment's own number")
    sub.add_argument("--out", help="the run's folder; default runs/<paper>-<dataset>-<budget>-seed<seed>")
    sub.add_argument("--resume", action="store_true", help="go on from the newest checkpoint in the folder")
    sub.add_argument("--save-every", type=int, default=250, help="steps between checkpoints; default %(default)s")
    sub.add_argument("--dry-run", action="store_true", help="say what would be run, and stop")
    return top


if __name__ == "__main__":
    sys.exit(main())
