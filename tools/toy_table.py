"""What every paper's class reaches on its toy law in about a minute: writes book/results/toys/ and book/toys.md.

python -m tools.toy_table                  all, one after the other (about 15 minutes on one core)
python -m tools.toy_table PAPER ...        these anew, the others as they were
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from gmbook import experiments
from gmbook.experiments import runs
from gmbook.experiments.base import Experiment
from gmbook.metrics import wording
from gmbook.metrics.metric import Metric, from_json, to_json

ROOT = Path(__file__).resolve().parents[1]
ROWS, PAGE = ROOT / "book" / "results" / "toys", ROOT / "book" / "toys.md"
EXPERIMENTS = [experiment for experiment in experiments.EXPERIMENTS if experiment.toy]
POINTS = {"grid": 20_000, "moons": 20_000, "digits": 360}  # how many samples are judged; 4,000 elsewhere
HEAD = """# Every class on its toy law

Each class of `gmbook.papers`, trained on a law that is known exactly, by the book's one loop, with a small network, for
so many steps of fresh draws. All distances stand beside their noise floor: the same distance between two true
samples of that size. Sliced W2 is a mean over five draws of 4,000 points; its floor wanders by a factor of two from
draw to draw, so a ratio below one is luck. The seconds are processor time, on the machine of the record.

"""


def measure(experiment: Experiment, steps: int | None = None, n: int | None = None) -> dict[str, Any]:
    """Train one experiment in a scratch folder and judge it."""
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        model, _ = runs.run(experiment, Path(folder) / "run", steps=steps, save_every=10**9, progress=False)
    seconds = time.process_time() - start
    torch.manual_seed(1)
    assert experiment.evaluate is not None
    report = experiment.evaluate(model, n or POINTS.get(experiment.dataset, 4000))
    weights = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {
        "steps": steps or experiment.recipe.steps,
        "seconds": round(seconds, 1),
        "weights": weights,
        "metrics": to_json(report),
    }


def recorded(folder: Path = ROWS) -> dict[str, dict[str, Any]]:
    """The rows by experiment."""
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in folder.glob("*.json")}


def measured(metric: Metric) -> str:
    """Three digits, or a count, and the ratio to the floor."""
    parts = [f"{wording.name(metric.key)} {metric.value:.3g}"]
    parts += [f"standard error {metric.error:.3g}"] if metric.error is not None else []
    parts += [f"{wording.name(key)} {value:.3g}" for key, value in metric.baselines.items()]
    if metric.floor is not None:
        parts += [f"noise floor {metric.floor:.3g}", f"ratio {metric.part('value') / metric.floor:.3g}"]
    return ", ".join(parts)


def page(results: dict[str, dict[str, Any]]) -> str:
    """The table in Markdown, in the order of the book's chapters."""
    lines = ["| class | law | steps | seconds | weights | measured |", "|---|---|---|---|---|---|"]
    for experiment in EXPERIMENTS:
        row = results.get(experiment.name)
        if row is None:
            continue
        words = ", ".join(measured(metric) for metric in from_json(row["metrics"]).values())
        law = experiment.dataset.replace("_", " ")
        size = f"{row['steps']:,} | {row['seconds']:.0f} | {row['weights']:,}"
        lines.append(f"| `{experiment.paper}` | {law} | {size} | {words} |")
    return HEAD + "\n".join(lines) + "\n"


def main() -> None:
    """Measure the named papers, or all, and write record and page after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("papers", nargs="*", help="papers, or PAPER-LAW pairs; all by default")
    words = parser.parse_args().papers
    ROWS.mkdir(parents=True, exist_ok=True)
    for experiment in EXPERIMENTS:
        if words and not {experiment.paper, f"{experiment.paper}-{experiment.dataset}"} & set(words):
            continue
        row = measure(experiment)
        print(experiment.name, row, flush=True)
        (ROWS / f"{experiment.name}.json").write_text(json.dumps(row, indent=1) + "\n")
        PAGE.write_text(page(recorded()))


if __name__ == "__main__":
    main()
