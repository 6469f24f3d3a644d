"""The benchmarks of the server and of the watch, tiny."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks import record, serving
from benchmarks import watch as watching
from benchmarks.shipped import Suite
from gradgeo.serve.limits import Limits
from gradgeo.serve.workers import WorkerLostError
from helpers.serving import SHAPE, LocalPool, judge, served

INPUTS = np.random.default_rng(0).uniform(0.3, 1, (256, *SHAPE)).astype(np.float32)


@pytest.mark.simulation
def test_a_soak_tells_good_from_bad() -> None:
    with served(LocalPool(), Limits(delay=0, rows=2 * serving.ROWS)) as server:
        soak = serving.soaked(serving.Served(server.address, os.getpid()), INPUTS, 200, clients=4)
    told = soak.summary
    assert told["good_wrong"] == 0
    assert told["bad_refused"][0] == told["bad_refused"][1] > 20
    assert told["requests"] == 198  # two went
    assert soak.statuses["NaN", 200] > 5
    assert 0 < told["p50_ms"] <= told["p99_ms"]
    assert min(told["memory"]) > 10
    assert len(soak.cells) == 7


def test_a_crowd_is_refused_but_for_some() -> None:
    with served(LocalPool(), Limits(connections=20, delay=0)) as server:
        found = serving.crowded(serving.Served(server.address, os.getpid()), INPUTS[:1], 300)
    assert 0 < found["answered"] <= 20
    assert found["answered"] + found["refused in words"] == 300
    assert found["status afterwards"] == 200


def test_a_soak_notices_what_is_lost() -> None:
    class Dying(LocalPool):
        async def __call__(self, x: np.ndarray, explain: bool) -> dict:
            raise WorkerLostError("dead")

    with served(Dying(), Limits(delay=0, rows=2 * serving.ROWS)) as server:
        soak = serving.soaked(serving.Served(server.address, os.getpid()), INPUTS, 20, clients=1)
    assert (soak.killed["answered"], soak.killed["refused in words"], soak.killed["without an answer"]) == (0, 17, 0)
    silent = serving.Soak(statuses=Counter({("single", 0): 2, ("single", 200): 3, ("no JSON", 400): 4}))
    assert (silent.killed["answered"], silent.killed["without an answer"]) == (3, 2)


def test_the_bare_model_answers_as_a_detector_does() -> None:
    loaded = serving.BareLoader("torch.nn:Flatten", SHAPE, 6)()
    assert loaded.facts.shape == SHAPE
    columns = loaded(INPUTS[:3], False)
    assert set(columns) == set(judge(INPUTS[:3]))
    assert np.array_equal(columns["logits"], INPUTS[:3].reshape(3, 6))
    assert columns["trusted"].all()


@pytest.mark.simulation
def test_the_page_of_the_watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LENGTH", 40), ("LONG", 200), ("USUAL", 60), ("PATIENCE", 40), ("BASELINE", 50)):
        monkeypatch.setattr(watching, name, value)
    monkeypatch.setattr(watching, "SHIFTS", ((4.0, 1.0), (0.0, 1.0)))
    page = watching.run(Suite(tmp_path, inputs=10))
    assert set(page.data["false_alarms"]["calibration, n 499"]) == {"0.1", "0.01", "0.001"}
    assert page.data["delays"]["4 of 1, fit"][0].isdigit()
    assert page.data["delays"]["0 of 1, fit"] == ["> 40", "> 40"]
    assert page.write(tmp_path, "watch", "python -m benchmarks watch").read_text().startswith("# How soon")


def test_the_interval_of_a_median_of_ratios_holds_it_and_says_when_it_is_narrow() -> None:
    rng = np.random.default_rng(0)
    for n in (20, 61):
        draws = np.exp(rng.standard_normal((2000, n)))
        low, median, high = np.array([record._spread(list(row)) for row in draws]).T
        assert 0.94 < ((low <= 1) & (high >= 1)).mean() < 0.98
        assert np.allclose(median, np.median(draws, axis=1))
    low, _, high = record._spread([float(number) for number in range(1, 21)])
    assert (low, high) == (6, 15)  # with probability 95.9 %
    near = list(rng.normal(1, 0.02, 20))
    assert record._narrow(near)
    assert not record._narrow([*near[:10], *(1.2 * ratio for ratio in near[10:])])
