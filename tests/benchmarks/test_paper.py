"""The pages of the paper's tables, on a few inputs of one small classifier: every table is there, with its numbers."""

from functools import partial

import numpy as np
import pytest
import torch

import gradgeo
from benchmarks import adaptive, evasion, paper, paper_small
from benchmarks.networks.madry import MADRY
from benchmarks.paper import causes, tables
from benchmarks.paper.settings import LOGITS, statistics
from benchmarks.paper.setups import SETUPS, Case
from benchmarks.shipped import Suite
from gradgeo.bench import cache
from gradgeo.bench.attacked import attacked

pytestmark = pytest.mark.data
WEIGHTS = (0.0, 1.0)
READ = 600
STEPS = 20
whole = Suite.read
NAMES = [f"CSA, weight {weight:g}" for weight in WEIGHTS]


@pytest.fixture(scope="module")
def few(tmp_path_factory, gradgeo_data):
    """The pages share attacks, by the cache. Statistics are fitted on the first half of what is read."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(cache, "CACHE", tmp_path_factory.mktemp("cache"))
        monkeypatch.setattr(Suite, "read", lambda suite, name, limit=None: whole(suite, name, min(limit or READ, READ)))
        monkeypatch.setattr(adaptive, "WEIGHTS", WEIGHTS)
        monkeypatch.setattr(adaptive, "attacked", partial(attacked, steps=STEPS))
        yield Suite(gradgeo_data, inputs=6, only=("mnist",))


def test_adaptive_attacks(few, monkeypatch):
    monkeypatch.setattr(adaptive, "CHOICES", "mnist")
    page = adaptive.run(few)
    cells = page.data["mnist"]
    assert list(cells) == [
        "PGD, untargeted",
        "PGD, targeted, cross-entropy",
        "PGD, targeted, mean squared error",
        *NAMES,
        "CSA, weight 1, own temperature",
    ]
    assert cells["CSA, weight 0"] == cells["PGD, targeted, cross-entropy"]
    assert cells["PGD, untargeted"]["flipped"] > 1
    for cell in cells.values():
        assert cell["success"] <= cell["flipped"] <= cell["inputs"] == 6
        if cell["flipped"] > 1:
            low, value, high = (cell["at temperature 1"]["auroc"][i] for i in (1, 0, 2))
            assert 0 <= low <= value <= high <= 1
    counts = ", ".join(str(cells[name]["flipped"]) for name in NAMES)
    assert any(counts in block for block in page.blocks)
    assert page.data["choices"]["targeted PGD"]["flipped"] == cells["CSA, weight 0"]["flipped"]


def test_evasion(few, monkeypatch):
    monkeypatch.setattr(evasion, "FIT", 200)
    monkeypatch.setattr(evasion, "EVADED", 2)
    monkeypatch.setattr(evasion, "STEPS", STEPS)
    page = evasion.run(few)
    assert set(page.data["evasion"]["mnist"]) == {"paper", "full"}
    for found in page.data["evasion"]["mnist"].values():
        assert found["evasion"]["flipped and trusted"] <= found["evasion"]["flipped"] <= found["inputs"]


def test_tables_of_the_paper(few, monkeypatch):
    monkeypatch.setattr(paper.why, "LINES", 1)
    monkeypatch.setattr(paper.adaptive, "STEPS", 3)
    tried = ("PGD", "rotation", "OOD", "misclassified")
    suite = Suite(few.folder, inputs=6, only=("mnist", *tried))
    page = paper_small.run(suite)
    named = page.data["table 1"]["mnist"]
    assert list(named) == list(tables.NAMED)
    assert all(set(row["tnr95"]) == set(tried) for row in named.values())
    grid = page.data["grid"]["mnist"]
    assert len(grid) == len(LOGITS) * 4  # the maximum of a single channel is no other setting
    assert grid[str(tables.OURS)] == named["ours: own temperature, copula, held-out"]
    steps = page.data["waterfall"]["mnist"]
    assert next(iter(steps.values())) == grid[str(tables.OURS)]["pooled"]["auroc"][0]
    fewer = page.data["maps"]["mnist"]["ours"]
    assert list(fewer) == ["5", "10"]
    assert fewer["10"]["loss"] == 0
    assert 0 <= page.data["adaptive"]["mnist"]["CSA as theirs"]["flipped"] <= 6
    assert page.data["line"]["mnist"]["lines"] == 1
    assert set(page.data["why"]["mnist"]) == {"trusted", *tried}
    assert any("set-ups: Madry's CNN" in block and "causes: noise" in block for block in page.blocks)


@pytest.mark.parametrize("name", MADRY)
def test_the_papers_network_is_made_and_judges_digits(few, name):
    classifier = few[name]
    assert classifier.model(classifier.x[:2]).shape == (2, 10)


def test_signals_are_not_turned_and_others_of_another_length_are_stretched(few):
    case = Case(SETUPS["ecg5000"], few)
    assert len(causes.inputs(case, "rotation").x) == 0
    assert causes.inputs(case, "OOD").x.shape[1:] == case.classifier.x.shape[1:]
    assert [len(x) for _, x in causes.ood(case)] == [few.inputs // 2] * 3


def test_the_statistics_of_the_grid_are_those_of_csm(few):
    classifier = few["mnist"]
    x = classifier.x[:5]
    known = statistics(classifier, x)
    for name, options in {
        "temperature 1": {},
        "own temperature": {"temperature": classifier.temperature},
        "rescaled, channel maximum": {"rescale": True, "channel_max": True},
        "raw logits": {"loss": "logit"},
    }.items():
        matrix = gradgeo.csm(classifier.model, x, **options)
        expected = gradgeo.csm_statistics(matrix, torch.from_numpy(known.label)).numpy()
        # The same cosines in another order of the classes; a sign of a rounded zero may differ.
        assert np.abs(known.of(name) - expected).max() < 0.01


def test_a_network_with_softplus_is_another_function_of_the_same_weights(few):
    net, x = few["mnist"].model, few["mnist"].x[:3]
    smooth = paper.adaptive.Softplus(net)
    assert not torch.allclose(smooth(x), net(x), atol=0.1)
    linear = torch.nn.Linear(4, 3)
    assert torch.equal(paper.adaptive.Softplus(linear)(x.flatten(1)[:, :4]), linear(x.flatten(1)[:, :4]))
