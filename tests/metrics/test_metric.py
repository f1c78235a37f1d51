"""Metrics: numbers with their errors, words and JSON."""

from __future__ import annotations

import json
import math

import pytest
import scipy.stats
import torch

from gmbook.data.jsonfiles import as_json
from gmbook.metrics import wording
from gmbook.metrics.metric import Metric, Protocol, by_key, from_json, mean, to_json, with_sampler

FULL = Metric(
    "bits_per_dim_bound",
    2.25,
    error=0.036,
    floor=1.5,
    baselines={"pixel_gaussian": 4.69, "histogram": 7.88},
    unit="bits/dim",
    protocol=Protocol(1000, "MNIST, test", 64, 4, "a network", "Heun", 3, "given the label"),
    lines=("the cat", "sat"),
)
METRICS = [
    FULL,
    Metric("active_units", 0),
    Metric("recall", 0.0, floor=0.0, protocol=Protocol(samples=0, seed=0)),
    Metric("class_counts", (1, 2, 0)),
    Metric("fid", None, missing="not computed: no weights"),
    Metric("tiny", 1e-300),
]


def test_what_is_written_comes_back():
    """Through real JSON: zeros, counts, what is missing, every digit."""
    again = from_json(json.loads(as_json(to_json(METRICS))))
    assert list(again.values()) == METRICS and list(again) == [m.key for m in METRICS]
    assert type(again["active_units"].value) is int and type(again["recall"].value) is float
    assert to_json(METRICS)["active_units"] == {"value": 0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "an object is needed, not a list"),
        ({"precision": 0.8}, "'precision' is a float"),
        ({"precision": {}}, "metric 'precision': 'value' is missing"),
        ({"precision": {"value": "0.8"}}, "metric 'precision': 'value' is a text"),
        ({"precision": {"value": True}}, "'value' is true or false"),
        ({"precision": {"value": 1, "floor": None}}, "'floor' is null"),
        ({"precision": {"value": 1, "errror": 2}}, "'errror' is unknown: known are value, error"),
        ({"precision": {"value": 1, "baselines": {"a": "b"}}}, "'a' is a text"),
        ({"precision": {"value": 1, "protocol": {"samples": 1.5}}}, "'samples' is a float"),
        ({"precision": {"value": [1, "x"]}}, "'entry 1' is a text"),
        ({"precision": {"value": 1, "lines": [1]}}, "'entry 0' is an integer"),
    ],
)
def test_what_is_no_metric_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        from_json(content)


def test_a_mean_has_its_standard_error():
    values = torch.randn(50, dtype=torch.float64)
    found = mean("x", values, unit="nats")
    assert found.value == pytest.approx(values.mean().item())
    assert found.error == pytest.approx(scipy.stats.sem(values.numpy()))
    assert found.unit == "nats"


def test_two_metrics_of_one_key_are_refused():
    with pytest.raises(ValueError, match="two metrics are called 'tiny'"):
        by_key([*METRICS, Metric("tiny", 2)])


def test_a_sampler_is_named_where_samples_were_measured():
    found = with_sampler(METRICS, "DDIM")
    assert [m.protocol.sampler for m in found] == ["DDIM", "", "DDIM", "", "", ""]


def test_parts_by_name():
    assert [FULL.part(name) for name in ("value", "error", "floor", "histogram")] == [2.25, 0.036, 1.5, 7.88]
    assert [FULL.part(name) for name in ("samples", "examples", "draws")] == [1000, 64, 4]
    assert METRICS[2].part("floor") == 0 and METRICS[4].part("value") is None
    with pytest.raises(LookupError, match="active_units has no 'floor'"):
        METRICS[1].part("floor")


def test_sentences():
    assert wording.sentence(FULL) == (
        "bits/dim, bound: 2.25 ± 0.036 (true data 1.5; full-covariance Gaussian of the training pixels 4.69; "
        "histogram per pixel 7.88; 1,000 samples against 64 of MNIST, test; 4 draws each; given the label; "
        "features of a network; Heun; seed 3)"
    )
    assert wording.sentence(Metric("class_counts", (1000, 2))) == "samples of each class: 1,000, 2"
    assert wording.sentence(METRICS[4]) == "FID: not computed: no weights"
    assert wording.sentence(Metric("negative_elbo", math.pi, unit="nats")) == "negative ELBO: 3.142 nats"
    assert wording.sentence(Metric("of_a_new_paper", 2)) == "of a new paper: 2"


def test_the_error_of_neighbours_that_are_alike_is_that_of_their_blocks():
    """Ten runs of fifty equal values tell as much as ten values, and seem to tell as much as 500."""
    torch.manual_seed(0)
    few = torch.randn(10, dtype=torch.float64)
    values = few.repeat_interleave(50)
    assert mean("x", values, 10).error == pytest.approx((few.std() / 10**0.5).item(), rel=1e-12)
    assert mean("x", values, 10).value == pytest.approx(few.mean().item(), rel=1e-12)
    assert mean("x", values).error < mean("x", values, 10).error / 5
    assert mean("x", few, 10).error is None and mean("x", values, 1).error is None
