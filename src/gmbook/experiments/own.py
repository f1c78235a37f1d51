"""The book's models on one's own data: which classes go with which kind, how they are trained, and what is measured.

    experiment = own.experiment("ddpm", "photos", size=32)
    model, losses = runs.run(experiment, Path("runs/photos"), steps=5000)

`gmbook train ddpm photos` does the same. Nothing here needs labels. What a trained model needs of its data (shape,
scale, alphabet) stands in `run.json`, so that a run can be sampled without them; `gmbook evaluate` reads them again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gmbook import data, metrics, plots
from gmbook.data import own as files
from gmbook.data.batches import Batches, TextBatches
from gmbook.experiments import own_ways as ways
from gmbook.experiments.base import BUDGETS, Evaluate, Experiment, choose
from gmbook.experiments.mdlm import ROWS
from gmbook.experiments.mdlm import evaluate as evaluate_text
from gmbook.experiments.own_ways import Facts, Way
from gmbook.metrics import efficientnet
from gmbook.metrics.metric import Metric, Protocol, mean, seed
from gmbook.train.device import device
from gmbook.train.recipe import Recipe

PIXELS = 10_000  # pictures at once beside each other, in the search for the nearest


@dataclass(frozen=True)
class Own:
    """One's own data, read when they are needed.

    Attributes:
        facts: plain JSON: kind, path, digest and number of the training part, shape, and what the kind adds.
        parts: what was read, by split.
    """

    facts: Facts
    parts: dict[str, Any] = field(default_factory=dict)

    def part(self, split: str) -> Any:
        """A split, as `gmbook.data.own` reads it.

        Raises:
            ValueError: the training part is not the one that the facts were taken from.
        """
        if split not in self.parts:
            found = KINDS[self.facts["kind"]].read(Path(self.facts["path"]), self.facts, split)
            if split == "train" and files.digest(ways.numbers(found)) != self.facts["digest"]:
                raise ValueError(f"{self.facts['path']} has changed since the run began: train anew on what it holds")
            self.parts[split] = found
        return self.parts[split]


class Kind(NamedTuple):
    """What is done with data of one kind.

    Attributes:
        read: (path, facts, split) -> a set.
        about: what a trained model needs to know of a training part, as plain JSON.
        batches: (own, way, seed, batch size) -> the training stream.
        evaluate: (own, way) -> an experiment's `evaluate`.
        sheet: (facts, samples) -> their picture.
        table: (facts, samples) -> the ending of a file, and its content; None for pictures.
        ways: how each paper's class goes with it.
    """

    read: Callable[[Path, Facts, str], Any]
    about: Callable[[Any, bool], Facts]
    batches: Callable[[Own, Way, int, int], Iterable[tuple[Tensor, ...]]]
    evaluate: Callable[[Own, Way], Evaluate]
    sheet: Callable[[Facts, Tensor], plots.Picture]
    table: Callable[[Facts, Tensor], tuple[str, str]] | None
    ways: dict[str, Way]


def experiment(paper: str, path: str | Path, budget: str = "laptop", size: int | None = None) -> Experiment:
    """An experiment on one's own data: a folder of pictures, a table of points (.csv, .tsv), a text (.txt, .md).

    Args:
        paper: whose class; an error lists those that go with the data.
        size: of pictures, pixels of a side; found if it is not given.

    Raises:
        DataMissing, DataCorrupt: the path holds nothing, or something that cannot be read.
        ValueError: the class does not go with the data, or there are too few of them.
    """
    choose("budget", budget, BUDGETS)
    path, kind = Path(path), files.kind(path)
    _way(paper, kind)
    if size is not None and kind != "images":
        raise ValueError(f"a size is for pictures, and {path} holds {kind}")
    found = KINDS[kind].read(path, {"shape": [0, size, size]}, "train")
    own = Own(
        {
            "kind": kind,
            "path": str(path.resolve()),
            "digest": files.digest(ways.numbers(found)),
            "examples": len(found),
            "told": repr(found),
            **KINDS[kind].about(found, budget == "gpu"),
        },
        {"train": found},
    )
    return _experiment(paper, budget, own)


def restore(about: dict[str, Any]) -> Experiment:
    """The experiment of a run on one's own data, from its `run.json`; the data are read only when they are asked for.

    Raises:
        ValueError: the file says nothing that can be used.
    """
    try:
        return _experiment(about["paper"], about["budget"], Own(about["data"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"run.json does not say what the data were ({error} is missing): train anew") from error


def _way(paper: str, kind: str) -> Way:
    """How a paper's class goes with a kind of data. Raises ValueError, with the papers that do, if it does not."""
    if paper not in KINDS[kind].ways:
        raise ValueError(f"{paper!r} does not train on your own {kind}: {', '.join(KINDS[kind].ways)} do")
    return KINDS[kind].ways[paper]


def _experiment(paper: str, budget: str, own: Own) -> Experiment:
    facts, gpu = own.facts, budget == "gpu"
    kind, way = KINDS[facts["kind"]], _way(paper, facts["kind"])
    way.check(facts)
    name = re.sub(r"\W+", "_", Path(facts["path"]).stem).strip("_").lower() or facts["kind"]
    table = kind.table
    return Experiment(
        paper,
        name,
        budget,
        model=lambda: way.model(facts, gpu),
        batches=lambda seed, size: kind.batches(own, way, seed, size),
        recipe=Recipe(
            steps=way.steps[gpu],
            batch_size=min(way.size, facts["examples"]),
            ema_decay=way.ema,
            bf16=gpu and facts["kind"] != "points",
            **way.options,
        ),
        reference="none: these are your own data",
        sample=lambda model, labels: ways.in_parts(way, facts, model, len(labels)),
        evaluate=kind.evaluate(own, way),
        sheet=lambda x: kind.sheet(facts, x),
        table=None if table is None else lambda x: table(facts, x),
        facts=facts,
    )


# ------------------------------------------------------------------------------------------------------ pictures


def _evaluate_images(own: Own, way: Way) -> Evaluate:
    @torch.no_grad()
    def report(model: Any, n: int) -> list[Metric]:
        train, test = own.part("train"), own.part("test")
        real, held = data.scale(train.x), data.scale(test.x)
        x = _compared(way, own.facts, model, n)
        card = Protocol(len(x), f"{test.name}, held out", len(held), seed=seed())
        near = Protocol(min(len(x), 200), f"{train.name}, train", len(real), seed=seed())
        found = [
            _beside("sliced_w2", metrics.sliced_w2, x, real, held, card),
            Metric("nearest_training_image", _nearest(x[:200], real), floor=_nearest(held[:200], real), protocol=near),
            _features(x, real, held, replace(card, network=efficientnet.NAME)),
        ]
        if way.nats is not None:
            few = test.x[: min(way.few, n)]
            bits = way.nats(own.facts, model, few.to(device())).cpu()
            histogram = {"histogram": metrics.histogram_bits(train.x, few).mean().item()}
            how = Protocol(data=card.data, examples=len(few), draws=1, seed=seed())
            found.append(mean("bits_per_dim_bound", bits, baselines=histogram, unit="bits/dim", protocol=how))
        return found

    return report


def _beside(
    key: str, distance: Callable[[Tensor, Tensor], Tensor], x: Tensor, real: Tensor, held: Tensor, how: Protocol
) -> Metric:
    """A distance of samples to what was held out, beside that of the training part."""
    return Metric(key, distance(x, held).item(), floor=distance(real, held).item(), protocol=how)


def _compared(way: Way, facts: Facts, model: Any, n: int) -> Tensor:
    """n samples to be compared with real ones. Raises ValueError at fewer than two, which have no spread."""
    if n < 2:
        raise ValueError(f"at least 2 samples are needed to compare them with the data, got {n}")
    return ways.in_parts(way, facts, model, n)


def _nearest(x: Tensor, real: Tensor) -> float:
    """The mean over x of the root mean square distance to the nearest real picture."""
    parts = [torch.cdist(x.flatten(1), part.flatten(1)).min(1).values for part in real.split(PIXELS)]
    return (torch.stack(parts).min(0).values / x[0].numel() ** 0.5).mean().item()


def _features(x: Tensor, real: Tensor, held: Tensor, how: Protocol) -> Metric:
    """The Fréchet distance of EfficientNet-Lite0's features to held-out pictures, or why there is none."""
    try:
        seen, known, wanted = (
            torch.cat([efficientnet.features(p.expand(-1, 3, -1, -1).to(device())).cpu() for p in part.split(250)])
            for part in (x, real, held)
        )
    except efficientnet.WeightsMissing as missing:
        return Metric("efficientnet_frechet_distance", None, protocol=how, missing=f"not computed: {missing}")
    return _beside("efficientnet_frechet_distance", metrics.frechet_distance, seen, known, wanted, how)


# ------------------------------------------------------------------------------------------------------ points


def _evaluate_points(own: Own, way: Way) -> Evaluate:
    @torch.no_grad()
    def report(model: Any, n: int) -> list[Metric]:
        train, test = own.part("train"), own.part("test")
        real, held = train.standardise(train.x), test.standardise(test.x)
        x = train.standardise(_compared(way, own.facts, model, n))
        card = Protocol(len(x), f"{test.name}, held out", len(held), seed=seed(), setting="in standard deviations")
        found = [
            _beside("sliced_w2", metrics.sliced_w2, x, real, held, card),
            _beside("energy_distance", metrics.energy_distance, x, real, held, card),
        ]
        if way.nats is not None:
            few = held[: min(way.few, n)]
            shift = train.std.double().log().sum().item()  # from the standardised scale to the file's
            nats = way.nats(own.facts, model, few.to(device())).double().cpu() + shift
            spread = torch.linalg.cholesky(real.T.double().cov().reshape(real.shape[1], -1))
            normal = torch.distributions.MultivariateNormal(real.mean(0).double(), scale_tril=spread)
            gaussian = {"gaussian": shift - normal.log_prob(few.double()).mean().item()}
            how = Protocol(data=card.data, examples=len(few), seed=seed(), setting=way.bound)
            found.append(mean("nats_per_point", nats, baselines=gaussian, unit="nats", protocol=how))
        return found

    return report


def _scatter(facts: Facts, x: Tensor) -> plots.Picture:
    """Samples (n, D): the first two columns against each other, or the counts of a single one."""
    picture, axes = plots.panels(1, 1)
    ax, names = axes.flat[0], facts["columns"]
    if x.shape[1] == 1:
        ax.hist(x[:, 0].numpy(), bins=30, color=plots.MODEL)
    else:
        ax.scatter(x[:, 0].numpy(), x[:, 1].numpy(), s=8, color=plots.MODEL, linewidths=0)
        ax.set_ylabel(names[1])
    ax.set_xlabel(names[0])
    picture.description = f"{len(x)} samples, {', '.join(names[:2])}"
    return picture


def _csv(facts: Facts, x: Tensor) -> tuple[str, str]:
    """Samples as a table."""
    import pandas

    return ".csv", pandas.DataFrame(x.numpy(), columns=facts["columns"]).to_csv(index=False)


# ------------------------------------------------------------------------------------------------------ letters


def _about_text(text: data.TextSet, gpu: bool) -> Facts:
    return {"alphabet": text.alphabet, "shape": [ways.WINDOW[gpu]]}


def _windows(own: Own, way: Way, seed: int, size: int) -> TextBatches:
    length = own.facts["shape"][0]
    return TextBatches(own.part("train").tokens, length=length, size=size, seed=seed, device=device())


def _lines(facts: Facts, tokens: Tensor) -> plots.Picture:
    """The first lines of letters (n, L); ends of line are drawn."""
    shown = [data.decode(line, alphabet=facts["alphabet"]) for line in tokens[:ROWS]]
    return plots.text(["".join(c if c.isprintable() else {"\n": "↵", "\t": "→"}.get(c, "·") for c in s) for s in shown])


def _txt(facts: Facts, tokens: Tensor) -> tuple[str, str]:
    """Samples as text, an empty line between them."""
    return ".txt", "\n\n".join(data.decode(line, alphabet=facts["alphabet"]) for line in tokens) + "\n"


def _evaluate_text(own: Own, way: Way) -> Evaluate:
    def nats(model: Any, x: Tensor) -> Tensor:
        assert way.nats is not None
        return way.nats(own.facts, model, x)

    return evaluate_text(own.part, nats, way.key, way.draws)


KINDS: dict[str, Kind] = {
    "images": Kind(
        read=lambda path, facts, split: files.images(path, facts["shape"][1], split),
        about=lambda found, gpu: {"shape": list(found.shape)},
        batches=lambda own, way, seed, size: Batches(
            own.part("train").x, size=size, seed=seed, device=device(), transform=way.see
        ),
        evaluate=_evaluate_images,
        sheet=lambda facts, x: plots.images(x, columns=10),
        table=None,
        ways=ways.IMAGES,
    ),
    "points": Kind(
        read=lambda path, facts, split: files.points(path, split),
        about=lambda found, gpu: {
            "shape": list(found.shape),
            "columns": list(found.columns),
            "mean": found.mean.tolist(),
            "std": found.std.tolist(),
        },
        batches=lambda own, way, seed, size: Batches(
            own.part("train").x, size=size, seed=seed, device=device(), transform=own.part("train").standardise
        ),
        evaluate=_evaluate_points,
        sheet=_scatter,
        table=_csv,
        ways=ways.POINTS,
    ),
    "text": Kind(
        read=lambda path, facts, split: files.text(path, split),
        about=_about_text,
        batches=_windows,
        evaluate=_evaluate_text,
        sheet=_lines,
        table=_txt,
        ways=ways.TEXT,
    ),
}
