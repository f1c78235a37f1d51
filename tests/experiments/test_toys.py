"""The page that says what every class reaches on its toy law: regenerated in little, and held to the book's bars."""

import json

import pytest
from tools import toy_table

from gmbook.experiments.toys import EXPERIMENTS

RECORDED = json.loads(toy_table.JSON.read_text(encoding="utf-8"))
PAPERS = (
    "vae gan realnvp glow ffjord ddpm ddim improved_ddpm ncsn score_sde latent_diffusion flow_matching rectified_flow"
)
PAPERS += " d3pm sedd mdlm mar dc_ae"
FLOWS = {"vae", "realnvp", "glow", "ffjord"}  # whose bar on eight Gaussians is 5; it is 2.5 for diffusions and the like


def test_all_eighteen_papers_have_a_row():
    assert {e.paper for e in EXPERIMENTS} == set(PAPERS.split())
    assert {e.name for e in EXPERIMENTS} == set(RECORDED)


def test_the_page_is_made_from_the_record():
    assert toy_table.PAGE.read_text(encoding="utf-8") == toy_table.page(RECORDED)


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.name)
def test_a_short_run_gives_the_same_row(experiment):
    """Two steps and a few samples: the same measures, finite, and worse than the recorded run's where one is a loss."""
    row, recorded = toy_table.measure(experiment, steps=2, n=200), RECORDED[experiment.name]
    assert set(row["metrics"]) == set(recorded["metrics"])
    assert (row["weights"], recorded["steps"]) == (recorded["weights"], experiment.recipe.steps)
    assert recorded["seconds"] < 120  # a minute on two cores


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.name)
def test_the_recorded_run_keeps_the_bar(experiment):
    measured = RECORDED[experiment.name]["metrics"]
    match experiment.dataset:
        case "moons":
            assert measured["nats above the entropy"] < 0.15
        case "grid":
            assert measured["above it"] < 0.05
        case "digits":
            assert measured["error"] < measured["error of the mean image"] / 2
        case _:
            assert measured["modes found"] == 8
            assert measured["ratio"] < (5 if experiment.paper in FLOWS else 2.5)
