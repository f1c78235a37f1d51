"""What a measured number is: its value and error, what stands beside it, and how it was measured; as JSON and back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gmbook.data import ImageSet, TextSet
from gmbook.data.jsonfiles import NUMBER, Fields, checked, known


@dataclass(frozen=True)
class Protocol:
    """How a number was measured: what must be known to measure it again. What does not apply is empty.

    Attributes:
        samples: how many samples of the model.
        data: the real examples that are measured, or that samples are compared with, such as "MNIST, test".
        examples: how many of them.
        draws: how many draws of the noise for each example.
        network: whose features are compared.
        sampler: how the samples were drawn.
        seed: of torch's generator.
        setting: what else must be said.
    """

    samples: int | None = None
    data: str = ""
    examples: int | None = None
    draws: int | None = None
    network: str = ""
    sampler: str = ""
    seed: int | None = None
    setting: str = ""


@dataclass(frozen=True)
class Metric:
    """A measured number.

    Attributes:
        key: an identifier; `metrics.wording` has the words for it.
        value: the number, or counts; None where it could not be computed.
        error: the standard error of the value.
        floor: the same number of true data, measured in the same way.
        baselines: the same number of simple models, by identifier.
        unit: "nats", "bits/dim", …; empty for a pure number.
        protocol: how it was measured.
        missing: why there is no value.
        lines: some of the samples that were measured, where they are text.
    """

    key: str
    value: float | int | tuple[int, ...] | None
    error: float | None = None
    floor: float | None = None
    baselines: dict[str, float] = field(default_factory=dict)
    unit: str = ""
    protocol: Protocol = field(default_factory=Protocol)
    missing: str = ""
    lines: tuple[str, ...] = ()

    def part(self, name: str) -> Any:
        """Its value, error, floor, one of its baselines, or how many samples, examples or draws: by name.

        Raises:
            LookupError: there is none of that name.
        """
        parts: dict[str, Any] = {name: getattr(self, name) for name in ("value", "error", "floor")}
        parts |= {name: getattr(self.protocol, name) for name in ("samples", "examples", "draws")} | self.baselines
        if name not in parts or (parts[name] is None and name != "value"):
            raise LookupError(f"{self.key} has no {name!r}: it has {', '.join(k for k, v in parts.items() if v)}")
        return parts[name]


def mean(key: str, values: Tensor, blocks: int | None = None, **rest: Any) -> Metric:
    """The mean of values (n,), and its standard error std/√n, which a single value lacks; the rest as in `Metric`.

    Args:
        blocks: where neighbours are alike, as windows of one text are: the values are cut into so many runs of
            neighbours, and the error is that of the runs' means, std/√blocks. Fewer values than two in a run have none.
    """
    many = len(values) if blocks is None else blocks
    means = values if blocks is None else torch.stack([part.mean() for part in values.tensor_split(blocks)])
    error = (means.std() / many**0.5).item() if 1 < many and (blocks is None or len(values) >= 2 * blocks) else None
    return Metric(key, values.mean().item(), error=error, **rest)


def with_sampler(metrics: Iterable[Metric], sampler: str) -> list[Metric]:
    """The same, where those that are about samples say how these were drawn."""
    return [
        replace(m, protocol=replace(m.protocol, sampler=sampler)) if m.protocol.samples is not None else m
        for m in metrics
    ]


def by_key(metrics: Iterable[Metric]) -> dict[str, Metric]:
    """The metrics by their keys.

    Raises:
        ValueError: two have the same.
    """
    found: dict[str, Metric] = {}
    for metric in metrics:
        if metric.key in found:
            raise ValueError(f"two metrics are called {metric.key!r}")
        found[metric.key] = metric
    return found


def of_set(examples: ImageSet | TextSet) -> str:
    """What a set is called in a protocol: its name and its part."""
    return f"{examples.name}, {examples.split}"


def seed() -> int:
    """The seed that torch's generator was last given."""
    return torch.initial_seed()


# ------------------------------------------------------------------------------------------------------ JSON

PROTOCOL: Fields = {
    **{name: int for name in ("samples", "examples", "draws", "seed")},
    **{name: str for name in ("data", "network", "sampler", "setting")},
}
METRIC: Fields = {
    "value": (*NUMBER, list, type(None)),
    "error": NUMBER,
    "floor": NUMBER,
    "baselines": dict,
    "unit": str,
    "protocol": dict,
    "missing": str,
    "lines": list,
}


def to_json(metrics: Iterable[Metric]) -> dict[str, dict[str, Any]]:
    """The metrics by key, as plain objects; what is empty is left out, but for the value."""
    found = {key: asdict(metric) for key, metric in by_key(metrics).items()}
    for content in found.values():
        del content["key"]
        content["protocol"] = _filled(content["protocol"])
    return {key: {"value": content.pop("value")} | _filled(content) for key, content in found.items()}


def from_json(content: Any) -> dict[str, Metric]:
    """The metrics by key, from what `to_json` made.

    Raises:
        ValueError: it is something else; the message says where.
    """
    return {key: _metric(key, checked(content, {key: dict})[key]) for key in checked(content, {})}


def _metric(key: str, content: dict[str, Any]) -> Metric:
    try:
        found = known(checked(content, {"value": METRIC["value"]}), METRIC)
        baselines = checked(found.get("baselines", {}), dict.fromkeys(found.get("baselines", {}), NUMBER))
        protocol = Protocol(**known(found.get("protocol", {}), PROTOCOL))
        value = tuple(_all(int, found["value"])) if isinstance(found["value"], list) else found["value"]
        lines = tuple(_all(str, found.get("lines", [])))
    except ValueError as error:
        raise ValueError(f"metric {key!r}: {error}") from None
    return Metric(key, **found | {"value": value, "baselines": baselines, "protocol": protocol, "lines": lines})


def _all(kind: type, values: list[Any]) -> list[Any]:
    names = [f"entry {i}" for i in range(len(values))]
    return list(checked(dict(zip(names, values)), dict.fromkeys(names, kind)).values())


def _filled(content: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if value not in (None, "", (), {})}
