"""The page that says what every class reaches on its toy law: regenerated in little, and held to the book's bars."""

import pytest
from tools import toy_table
from tools.toy_table import EXPERIMENTS

from gmbook import registry
from gmbook.metrics.metric import from_json

RECORDED = toy_table.recorded()
PAPERS = registry.read().entries


def test_every_chapters_paper_has_a_row():
    assert {e.paper for e in EXPERIMENTS} == {chapter.key for chapter in registry.read().chapters if chapter.arxiv}
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
    measured = from_json(RECORDED[experiment.name]["metrics"])
    match experiment.dataset:
        case "moons":
            assert measured["nats_above_entropy"].value < 0.15
        case "grid":
            assert measured["total_variation"].value - measured["total_variation"].floor < 0.05
        case "digits":
            error = measured["reconstruction_error"]
            assert error.value < error.baselines["mean_image"] / 2
        case _:
            assert measured["modes_found"].value == 8
            latents = PAPERS[experiment.paper].family in (
                "latent",
                "flow",
            )  # the bar is lower for diffusions and the like
            assert measured["sliced_w2"].value / measured["sliced_w2"].floor < (5 if latents else 2.5)
