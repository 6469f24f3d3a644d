"""The price of evasion is found by bisection, each input for itself; what never succeeds is said so."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import price
from gradgeo._typing import Array, BoolArray, IntArray


def test_bisection_finds_the_lowest_rung_of_each_input() -> None:
    thresholds, asked = np.arange(8), 0

    def succeeds(epsilon: float, rows: IntArray) -> BoolArray:
        nonlocal asked
        asked += 1
        return epsilon >= thresholds[rows]

    ladder = [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
    low, high = np.full(8, -1), np.full(8, 6)
    assert price.smallest(ladder, low, high, succeeds).tolist() == [0, 1, 2, 3, 4, 5, 6, 6]
    assert asked <= 6
    low[:], high[:] = 1, [2, 2, 2, 3, 6, 6, 6, 6]  # what is known is not asked again
    assert price.smallest(ladder, low, high, succeeds).tolist() == [2, 2, 2, 3, 4, 5, 6, 6]


@pytest.mark.parametrize("rungs", [1, 2, 19])
def test_a_rung_that_is_reported_was_seen_to_succeed(rungs: int) -> None:
    seen = np.zeros((rungs, 30), dtype=bool)
    random = np.random.default_rng(0)

    def succeeds(epsilon: float, rows: IntArray) -> BoolArray:
        done = random.random(len(rows)) < epsilon / rungs  # an attack that fails by chance
        seen[int(epsilon), rows] |= done
        return done

    ladder = [float(k) for k in range(rungs)]
    found = price.smallest(ladder, np.full(30, -1), np.full(30, rungs), succeeds)
    assert all(rung == rungs or seen[rung, row] for row, rung in enumerate(found.tolist()))


def test_longer_attacks_go_where_there_is_something_to_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[int, list[int]]] = []
    reached = {
        price.STEPS: [0.9, 0.2, 0.03, 0.0, 0.0],
        price.MORE: [0, 0.1, 0.04, 0, 0],
        price.LONG: [0, 0, 0.7, 0, 0.6],
    }

    def trust(_: object, epsilon: float, rows: IntArray, *, steps: int = price.STEPS, seed: int = 0) -> Array:
        tried.append((steps, rows.tolist()))
        return np.array(reached[steps])[rows]

    monkeypatch.setattr(price._Duel, "trust", trust)
    monkeypatch.setattr(price._Duel, "can_flip", {0.1: np.array([False, False, False, True, False])})
    duel = price._Duel(None, SimpleNamespace(x=np.zeros(5)), ())  # type: ignore[arg-type]
    assert duel.longest(0.1).tolist() == [0.9, 0.2, 0.7, 0.0, 0.0]  # the best of all; what has flipped can
    assert tried == [(price.STEPS, [0, 1, 2, 3, 4]), (price.MORE, [1, 2, 3]), (price.LONG, [2, 3])]


def test_the_page_keeps_what_other_runs_measured_of_the_same_network() -> None:
    old = {"weights": "old", "right": 0.9}
    held: dict[str, Any] = {
        "prices": {"mnist": {"lite": 1, "KNN": 2}, "fashion": {"KNN": 3}, "mnist-robust": {"KNN": 4}},
        "networks": {"mnist": old, "fashion": old, "mnist-robust": old},
        "strength": {"fashion": 5, "mnist-robust": 6},
    }
    data: dict[str, Any] = {
        "prices": {"mnist-robust": {"lite": 7}, "mnist": {"MaxSoftmax": 8, "lite": 9}},
        "networks": {"mnist-robust": {"weights": "new", "right": 0.8}, "mnist": old},
        "strength": {},
    }
    price._keep(data, held)
    assert data["prices"] == {
        "mnist": {"MaxSoftmax": 8, "KNN": 2, "lite": 9},
        "fashion": {"KNN": 3},
        "mnist-robust": {"lite": 7},  # trained anew: what is known of the other one is dropped
    }
    assert [list(data[key]) for key in ("prices", "networks")] == [["mnist", "fashion", "mnist-robust"]] * 2
    assert list(data["prices"]["mnist"]) == ["MaxSoftmax", "KNN", "lite"]
    assert data["networks"]["mnist-robust"] == {"weights": "new", "right": 0.8}
    assert data["strength"] == {"fashion": 5}
