"""The page of results and the README's table: made from the records, complete, and plain about what was not reached."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tools import readme, results
from tools.results import Bar, Entry

from gmbook.data.jsonfiles import as_json
from gmbook.experiments import EXPERIMENTS, find
from gmbook.experiments.results import Record
from gmbook.metrics import wording
from gmbook.metrics.metric import Metric, Protocol, by_key, to_json

RECORDS = results.recorded()
AR, MDLM = "autoregressive-text8-laptop", "mdlm-text8-laptop"


def made_up(paper: str, *metrics: Metric) -> Record:
    """A record of a run on text8 that never was."""
    run = {"paper": paper, "dataset": "text8", "budget": "laptop", "seed": 0, "steps": 5000, "batch": 32}
    about = {
        "commit": "0",
        "versions": {"torch": "2"},
        "hardware": "a CPU",
        "command": "gmbook",
        "reference": "a paper",
    }
    return Record(run | about | {"seconds": 600.0, "weights": 800_000}, by_key(metrics), Path("nowhere"))


def text(autoregression: float, bound: float) -> results.Records:
    """Both records on text8, where the 5-gram has 2.05 bits per letter."""
    counted = {"letter_frequencies": 4.1, "five_grams": 2.05}
    return {
        AR: made_up("autoregressive", Metric("bits_per_letter", autoregression, baselines=counted)),
        MDLM: made_up("mdlm", Metric("bits_per_letter_bound", bound, baselines=counted)),
    }


def rows(table: str, title: str) -> list[list[str]]:
    """The cells of the lines of a table that begin with this title."""
    return [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith(f"| {title} |")]


def test_the_page_and_the_readme_are_made_from_the_records():
    again = "`python -m tools.results` writes it anew"
    assert results.PAGE.read_text(encoding="utf-8") == results.page(RECORDS), again
    text = (readme.ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.put(text, "results", results.readme_table(RECORDS)) == text, again


def test_every_experiment_on_real_data_has_an_entry_with_a_source():
    wanted = {(e.paper, e.dataset) for e in EXPERIMENTS if e.dataset in results.SETS}
    listed = [(entry.paper, entry.dataset) for entry in results.entries()]
    assert sorted(listed) == sorted(wanted), "an experiment needs an entry in book/results/numbers"
    for entry in results.entries():
        assert all([entry.title, entry.theirs, entry.ours, entry.protocol, entry.gap])
        assert entry.paper == "classifier" or re.search(r"arXiv:\d{4}\.\d{5}|arXiv:1\d{3}\.\d{4}", entry.source)


def test_every_record_is_on_the_page():
    shown = {e.name for entry in results.entries() for e in results.runs(entry)}
    assert set(RECORDS) <= shown
    page = results.page(RECORDS)
    for name in RECORDS:
        assert f"(results/{name}/loss.png)" in page


def cells(page: str, title: str) -> dict[str, str]:
    """The cells of a card on the page of results."""
    card = page.split(f"### {title}\n")[1].split(":::\n")[0]
    return dict(re.findall(r"^([A-Z][\w ]+)\n: (.*)$", card, re.MULTILINE))


def test_what_was_not_run_says_so_at_the_end_and_shows_no_number():
    shown, left = results.page({}).split("## Not run yet")
    assert "gm-result" not in shown and "\n### " not in shown
    for entry in results.entries():
        for experiment in results.runs(entry):
            (line,) = [line for line in left.splitlines() if line.startswith(f"- {entry.title}, {experiment.budget}:")]
            assert re.match(
                rf": [\d,]+ steps of \d+\. The paper: {re.escape(entry.theirs)}\.$", line.split(experiment.budget, 1)[1]
            )
        for _, theirs, ours, run in rows(results.readme_table({}), entry.title):
            assert (theirs, ours) == (entry.theirs, "not yet run")
            assert re.match(r"laptop: [\d,]+ steps of \d+$", run)
    assert "GPU budget none has been run yet" in results.readme_table({})


def test_a_new_record_comes_into_both():
    """Whatever the record's metrics are called in full: by their beginnings."""
    records = text(1.9, 2.0)
    page, table = results.page(records), results.readme_table(records)
    assert list(cells(page, "Autoregression on text8")) == ["Ours", "The paper", "Run"]
    for ours, run in (
        (rows(table, "Autoregression on text8")[0][2:]),
        (cells(page, "Autoregression on text8")[name] for name in ("Ours", "Run")),
    ):
        assert ours.startswith("1.90 bits per letter (smoothed 5-gram 2.05") and "**" not in ours
        assert run == "laptop: 5,000 steps of 32, 0.80 M weights, 10 min"
    for ours in (rows(table, "MDLM on text8")[0][2], cells(page, "MDLM on text8")["Ours"]):
        assert ours.startswith("at most 2.00 bits per letter")
    assert "Autoregression on text8, laptop" not in page.split("## Not run yet")[1]


def test_a_run_that_a_5_gram_beats_says_so_in_the_table_and_among_the_aims():
    records = text(2.1, 2.2)
    page, table = results.page(records), results.readme_table(records)
    for title in ("Autoregression on text8", "MDLM on text8"):
        for ours in (rows(table, title)[0][2], cells(page, title)["Ours"]):
            assert "**A smoothed 5-gram, which only counts letters, does better**" in ours
    reached = {(title, aim[:6]): (value, limit, verdict) for title, aim, value, limit, verdict in results.aims(records)}
    assert reached["Autoregression on text8", "fewer "] == ("2.1", "2.05", "**no**")
    assert reached["MDLM on text8", "within"] == ("2.2", "2.35", "yes")


def test_the_bound_is_held_to_the_autoregression_of_the_same_budget():
    (bar,) = [bar for entry in results.entries() for bar in entry.bar if bar.of]
    both = text(1.9, 2.2)
    assert results.verdict(bar, both[MDLM], both) == ("2.2", "2.15", False)
    assert results.verdict(bar, both[MDLM], {MDLM: both[MDLM]}) == ("2.2", "not yet run", None)


METRICS = (
    Metric("share", 0.95, error=0.125, protocol=Protocol(samples=1000)),
    Metric("distance", 50.0, floor=10.0, baselines={"gaussian": 100.0}),
    Metric("nothing", None, missing="not computed: no network"),
)


@pytest.mark.parametrize(
    ("bar", "kept"),
    [
        (Bar("share", 0.95, "", "", at_least=True), True),
        (Bar("share", 0.951, "", "", at_least=True), False),
        (Bar("distance", "distance.gaussian", "", "", factor=0.5), False),
        (Bar("distance", "distance.gaussian", "", "", factor=0.6), True),
        (Bar("nothing", 1.0, "", ""), None),
        (Bar("share", "nothing", "", ""), None),
    ],
)
def test_bars(bar, kept):
    assert results.verdict(bar, made_up("x", *METRICS), {})[2] is kept


def test_a_number_that_is_missing_is_an_error_that_says_which_there_are():
    record = made_up("x", *METRICS)
    with pytest.raises(LookupError, match=r"no metric 'nats'.*book/results/numbers; it has share, distance, nothing"):
        results.number(record, "nats")
    with pytest.raises(LookupError, match="share has no 'floor': it has value, error, samples"):
        results.number(record, "share.floor")
    template = "{share|.1%}, {share.error|.3f}, {share.samples|,}, {distance.floor|.0f}, {distance.gaussian|.0f}"
    assert results.fill(template, record) == "95.0%, 0.125, 1,000, 10, 100"
    assert results.fill("{nothing|.0f}", record) == "not computed"


def test_the_misleading_precision_is_a_measured_one():
    assert "has precision" not in results.page({}) and "Precision alone misleads" in results.page({})
    shares = [
        Metric(key, 0.5, baselines={results.GAUSSIAN: value}) for key, value in (("precision", 0.9), ("recall", 0.0))
    ]
    records = {"a": made_up("vae"), "b": made_up("flow_matching", *shares)}
    assert "precision 0.90 and recall 0.00" in results.gaussian_sentence(records)


CARD = ("samples", "data", "examples", "network", "seed")


def test_every_distance_of_features_carries_its_card():
    """Samples, reference set, network and seed: without them such a number compares with nothing."""
    seen = 0
    for record in RECORDS.values():
        for metric in record.metrics.values():
            if "frechet" in metric.key or metric.key in ("fid", "precision", "recall"):
                assert all(getattr(metric.protocol, name) not in (None, "") for name in CARD), metric
                seen += 1
    assert seen > 30


def test_every_key_has_words_and_every_record_comes_back_as_it_was():
    for record in RECORDS.values():
        content = json.loads((record.folder / "record.json").read_text(encoding="utf-8"))
        assert json.loads(as_json(to_json(record.metrics.values()))) == content["metrics"]
        for metric in record.metrics.values():
            for key in (metric.key, *metric.baselines):
                assert re.fullmatch(r"[a-z][a-z0-9_]*", key)
                assert "_" not in wording.name(key)


def test_markers_that_are_gone_are_missed():
    begin, end = "<!-- results: begin, written by make sync -->", "<!-- results: end -->"
    for text in ("a README", f"a{end}b{begin}", f"{begin}{end}{begin}{end}"):
        with pytest.raises(ValueError, match="needs the two lines"):
            readme.put(text, "results", "table")
    assert readme.put(f"a{begin}old{end}b", "results", "new") == f"a{begin}\n\nnew\n{end}b"


def test_the_readme_lists_the_chapters_by_part():
    text = (readme.ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.put(text, "chapters", readme.chapters_table()) == text, "run `make sync`"
    for row in (
        "| Ground | 00 | [The language](chapters/00_language/language.md) | – | ready | – |",
        "|  | 02 | [GAN](chapters/02_gan/gan.md) | Goodfellow et al. 2014 | ready | `gan` |",
    ):
        assert row in text


def test_the_table_of_an_entry_names_metrics_that_a_record_has():
    """Of every recorded experiment, every place is filled; `fill` raises where one is not."""
    filled = [
        results.fill(entry.ours + entry.protocol, RECORDS[e.name])
        for entry in results.entries()
        for e in results.runs(entry)
        if e.name in RECORDS
    ]
    assert filled and not any("{" in line for line in filled)
    assert isinstance(results.entries()[0], Entry) and find("vae", "mnist", "laptop") in results.runs(
        results.entries()[0]
    )
