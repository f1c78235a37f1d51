"""What the recorded runs reach, beside what the papers report: book/results.md, and the table in README.md.

    python -m tools.results           write both anew, after a new `gmbook record`

Everything comes from book/results/*/record.json and from book/results/numbers/, where each paper has a file with what
it reports and what explains the distance to ours:

theirs, source: the paper's number, and where it stands. Only numbers that were read in the paper or its code, or that
two sources agree on.
ours: what of a record is shown; {key|format} is the value of its metric of that key, {key.part|format} its error, its
floor, one of its baselines, or how many samples or examples (`Metric.part`).
bar: what the laptop run was to show, see `Bar`; `missed` is printed if it fails.
"""

from __future__ import annotations

import contextlib
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmbook import registry
from gmbook.experiments import EXPERIMENTS
from gmbook.experiments.base import Experiment
from gmbook.experiments.results import NoRecord, Record, read
from gmbook.metrics import wording

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "book" / "results", ROOT / "book" / "results.md"
NUMBERS = RESULTS / "numbers"
SETS = ("mnist", "cifar10", "text8")  # digits and prose stand in where these are missing; toys have their own page
GAUSSIAN = "pixel_gaussian"  # the baseline that shows how precision misleads
NOT_RUN = "not yet run"
PLACE = re.compile(r"\{([^{}|]+)\|([^{}|]*)\}")  # {key|format} or {key.part|format}
HEADER = ("experiment", "the paper's number", "ours", "run")  # the README's

Records = dict[str, Record]  # by the experiment's name

INTRO = """# What the runs reach

Made from the records of `gmbook record` and from the papers' numbers, by `python -m tools.results`. A number under
"ours" was measured by this book's code with the recorded weights; those under "the paper" are the papers'. What was not
run yet stands [at the end](#not-run-yet), and says so.

"""

READING = """
## How to read them

- **Every distance stands beside its floor**, the same distance between two samples of real images of that size, and in
  colour beside a baseline: samples of a Gaussian with the training pixels' mean and covariance.
- **No distance here is FID.** FID means Inception's features. Digits are compared in the features of the book's own
  classifier, colour images in those of EfficientNet-Lite0: such numbers compare only with each other.
- **Precision alone misleads**, so recall stands beside it: samples that are all alike can lie close to real
  ones, as those of a Gaussian of the pixels do in colour features.{gaussian}
- **A bound is called a bound.** Bits per dimension of dequantised pixels and of diffusions are upper bounds of the true
  number; on MNIST they also depend on the preprocessing.
- **Minutes are by the wall clock** on the record's machine, which did other work beside it.
"""


@dataclass(frozen=True)
class Bar:
    """What a run was to show: `measure` below factor · `than` + margin, or, with at_least, not below it.

    `than` names a metric of the same record, or of the record of the paper `of` at the same budget; or is a number.
    `missed` says plainly what it means if it does not.
    """

    measure: str
    than: str | float
    aim: str
    missed: str
    of: str = ""
    factor: float = 1.0
    margin: float = 0.0
    at_least: bool = False


@dataclass(frozen=True)
class Entry:
    """A paper on a data set: what the paper reports, what of our record is shown, what lies between."""

    paper: str
    dataset: str
    title: str
    theirs: str
    source: str
    ours: str
    protocol: str
    gap: str
    bar: tuple[Bar, ...] = ()


def entries(folder: Path = NUMBERS) -> list[Entry]:
    """The entries of every paper's file, in the book's order, then those of no paper."""
    order = registry.read().order
    files = sorted(folder.glob("*.toml"), key=lambda file: [*order, file.stem].index(file.stem))
    tables = [table for file in files for table in tomllib.loads(file.read_text(encoding="utf-8"))["result"]]
    return [Entry(**table | {"bar": tuple(Bar(**bar) for bar in table.get("bar", ()))}) for table in tables]


def recorded() -> Records:
    """All records, by the experiment's name."""
    found = {}
    for experiment in EXPERIMENTS:
        with contextlib.suppress(NoRecord):
            found[experiment.name] = read(experiment, ROOT)
    return dict(sorted(found.items()))


def runs(entry: Entry) -> list[Experiment]:
    """The experiments of an entry: the laptop's budget, then the GPU's."""
    return sorted(
        (e for e in EXPERIMENTS if (e.paper, e.dataset) == (entry.paper, entry.dataset)),
        key=lambda e: e.budget,
        reverse=True,
    )


# -------------------------------------------------------------------------------------------------------- numbers


def number(record: Record, name: str) -> Any:
    """The number that `key` or `key.part` names; None where it could not be computed.

    Raises:
        LookupError: there is none.
    """
    key, _, part = name.partition(".")
    if key not in record.metrics:
        raise LookupError(
            f"the record of {record.content['paper']} on {record.content['dataset']} has no metric {key!r}: "
            f"correct its file in book/results/numbers; it has {', '.join(record.metrics)}"
        )
    return record.metrics[key].part(part or "value")


def show(value: Any, form: str) -> str:
    """A number in that format, or that there is none."""
    return "not computed" if value is None else format(value, form)


def fill(template: str, record: Record) -> str:
    """The template with the record's numbers in it."""
    return PLACE.sub(lambda place: show(number(record, place[1]), place[2]), template)


def verdict(bar: Bar, record: Record, records: Records) -> tuple[str, str, bool | None]:
    """What was measured, the bar, and whether it is kept; None where the record to compare with is missing."""
    value, than, other = number(record, bar.measure), bar.than, record
    if bar.of:
        name = f"{bar.of}-{record.content['dataset']}-{record.content['budget']}"
        if name not in records:
            return show(value, ".3g"), NOT_RUN, None
        other = records[name]
    limit = number(other, than) if isinstance(than, str) else than
    if value is None or limit is None:
        return show(value, ".3g"), "not computed", None
    limit = bar.factor * limit + bar.margin
    return f"{value:.4g}", f"{limit:.4g}", value >= limit if bar.at_least else value < limit


# --------------------------------------------------------------------------------------------------------- tables


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def ours(entry: Entry, record: Record, records: Records) -> str:
    """What of the record is shown, and plainly what was missed."""
    missed = "".join(f". **{bar.missed}**" for bar in entry.bar if verdict(bar, record, records)[2] is False)
    return fill(entry.ours, record) + missed


def run(experiment: Experiment, record: Record) -> str:
    """What was done: budget, steps, size, time."""
    content = record.content
    done = f"{content['steps']:,} steps of {content['batch']}, {content['weights'] / 1e6:.2f} M weights"
    return f"{experiment.budget}: {done}, {content['seconds'] / 60:.0f} min"


def planned(experiment: Experiment) -> str:
    """What is to be done: budget and steps."""
    return f"{experiment.budget}: {experiment.recipe.steps:,} steps of {experiment.recipe.batch_size}"


def row(entry: Entry, experiment: Experiment, records: Records) -> list[str]:
    """One line of the README's table: `HEADER`."""
    record = records.get(experiment.name)
    if record is None:
        return [entry.title, entry.theirs, NOT_RUN, planned(experiment)]
    return [entry.title, entry.theirs, ours(entry, record, records), run(experiment, record)]


def card(entry: Entry, experiment: Experiment, records: Records) -> str:
    """What a recorded run reached: three short cells, and prose below."""
    record = records[experiment.name]
    cells = {"Ours": ours(entry, record, records), "The paper": entry.theirs, "Run": run(experiment, record)}
    gap = "" if entry.gap == "–" else f" What explains the gap: {entry.gap}."
    budget = "" if experiment.budget == "laptop" else f" ({experiment.budget})"
    return (
        f"### {entry.title}{budget}\n\n:::{{div}} gm-result\n"
        + "\n".join(f"{name}\n: {text}\n" for name, text in cells.items())
        + f":::\n\nHow it was measured: {fill(entry.protocol, record)}.{gap}\n\n"
    )


def not_run(records: Records) -> str:
    """The experiments without a record, one line each."""
    left = [(entry, e) for entry in entries() for e in runs(entry) if e.name not in records]
    return "".join(f"- {entry.title}, {planned(e)}. The paper: {entry.theirs}.\n" for entry, e in left)


def aims(records: Records) -> Iterator[list[str]]:
    """What each laptop run was to show, and whether it does."""
    words = {True: "yes", False: "**no**", None: "open"}
    for entry in entries():
        record = records.get(f"{entry.paper}-{entry.dataset}-laptop")
        for bar in entry.bar:
            if record is None:
                yield [entry.title, bar.aim, NOT_RUN, "–", "open"]
            else:
                value, limit, kept = verdict(bar, record, records)
                yield [entry.title, bar.aim, value, limit, words[kept]]


def readme_table(records: Records) -> str:
    """The README's: the laptop's runs, and a sentence about the others."""
    others = [e for entry in entries() for e in runs(entry) if e.budget == "gpu"]
    done = [e.name for e in others if e.name in records]
    sentence = f"Of the {len(others)} experiments at the GPU budget {len(done) or 'none'} has been run yet"
    sentence += f": {', '.join(done)}." if done else "."
    rows = [row(entry, e, records) for entry in entries() for e in runs(entry) if e.budget == "laptop"]
    return f"{table(HEADER, rows)}\n{sentence}\n"


# ----------------------------------------------------------------------------------------------------------- texts


def gaussian_sentence(records: Records) -> str:
    """The example of a misleading precision, from the first record in colour that holds it."""
    for record in records.values():
        shares = [
            record.metrics[key].baselines.get(GAUSSIAN) for key in ("precision", "recall") if key in record.metrics
        ]
        if len(shares) == 2 and None not in shares:
            return (
                f" In the record of {record.content['paper']} on {record.content['dataset']} it has precision "
                f"{shares[0]:.2f} and recall {shares[1]:.2f}."
            )
    return ""


def methods(record: Record) -> str:
    """How the metrics were measured, one line for each way."""
    ways: dict[str, list[str]] = {}
    for metric in record.metrics.values():
        ways.setdefault(wording.protocol(metric.protocol), []).append(wording.name(metric.key))
    return "".join(f"- {', '.join(names)}: {way}.\n" for way, names in ways.items())


def details(entry: Entry, experiment: Experiment, record: Record) -> str:
    """A record in full: provenance, metrics, samples, losses."""
    folder = f"results/{experiment.name}"
    content = record.content
    versions = ", ".join(f"{name} {number}" for name, number in content["versions"].items())
    metrics = [[wording.name(m.key), wording.measured(m), wording.beside(m) or "–"] for m in record.metrics.values()]
    drawn = [f"> {line}\n" for m in record.metrics.values() for line in m.lines]
    parts = [
        f"### {entry.title}, {experiment.budget}\n",
        f"`{content['command']}`, commit `{content['commit']}`, seed {content['seed']}, "
        f"{content['seconds'] / 60:.0f} min on {content['hardware']}; {versions}. "
        f"The paper's setting: {content['reference']}.\n",
        table(("metric", "value", "beside it"), metrics),
        methods(record),
        *drawn,
    ]
    if experiment.sample is not None:
        parts.append(f"![Samples of this run, nothing selected]({folder}/samples.png)\n")
    parts.append(f"![The run's losses against its steps]({folder}/loss.png)\n")
    return "\n".join(parts)


def page(records: Records) -> str:
    """The book's page."""
    found = [(entry, e) for entry in entries() for e in runs(entry) if e.name in records]
    sources = [f"- {entry.title}: {entry.source}.\n" for entry in entries()]
    parts = [INTRO, "## What was run\n\n", *(card(*f, records) for f in found), "## What they were to show\n\n"]
    parts.append(table(("experiment", "aim", "measured", "bar", "reached"), list(aims(records))))
    parts += ["\n## Where the papers' numbers stand\n\n", *sources]
    parts.append(READING.format(gaussian=gaussian_sentence(records)))
    parts += ["\n## The records\n\n", "\n".join(details(*f, records[f[1].name]) for f in found)]
    return "".join(parts) + "\n## Not run yet\n\n" + not_run(records)


def main() -> int:
    """Write both."""
    from tools import readme  # which reads this module's table

    records = recorded()
    PAGE.write_text(page(records), encoding="utf-8")
    readme.write()
    print(f"wrote {PAGE.relative_to(ROOT)} and the table in README.md: {len(records)} records")
    return 0


if __name__ == "__main__":
    sys.exit(main())
