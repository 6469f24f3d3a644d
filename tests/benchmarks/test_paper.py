"""The pages of the paper's tables, on a few inputs of one small classifier: every table is there, with its numbers."""

import math
from functools import partial

import pytest

from benchmarks import adaptive, evasion, paper
from benchmarks.shipped import Suite
from benchmarks.ten_statistics import SHARES
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
        monkeypatch.setattr(Suite, "read", lambda suite, name, limit=READ: whole(suite, name, min(limit, READ)))
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
    monkeypatch.setattr(paper, "FEWER", ("mnist",))
    monkeypatch.setattr(paper, "LINES", 3)
    page = paper.run(few)
    detection = page.data["detection"]["mnist"]
    assert set(detection) == {"own temperature", "temperature 1"}
    assert {"Fashion-MNIST", "PGD", "uniform noise"} <= set(detection["temperature 1"])
    fewer = page.data["fewer maps"]["mnist"]
    assert list(fewer) == [str(share) for share in SHARES]
    assert [row["maps"] for row in fewer.values()] == [10, 5, 3, 3, 3]
    assert fewer["1.0"]["loss"] == 0
    assert fewer["0.5"]["loss"] == pytest.approx(fewer["1.0"]["auroc"] - fewer["0.5"]["auroc"])
    assert all(math.isfinite(row["ms_per_input"]) for row in fewer.values())
    assert page.data["decisions"]["mnist"]["lines"] == 3
