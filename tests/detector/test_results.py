"""Rows of predictions: what users of arrays expect of numbers, slices, masks and loops."""

import numpy as np
import pytest
import torch

from gradgeo import Predictions
from gradgeo.errors import ArgumentError

P = torch.tensor([0.5, 0.01, 0.25, 0.04], dtype=torch.float64)
FOUND = Predictions(torch.tensor([3, 1, 4, 1]), P, 1 / P, P, P > 0.05)


@pytest.mark.parametrize(
    ("rows", "label"),
    [
        (0, [3]),
        (-1, [1]),
        (np.int64(2), [4]),
        (torch.tensor(2), [4]),
        (slice(1, 3), [1, 4]),
        (slice(None, None, 2), [3, 4]),
        ([2, 0], [4, 3]),
        ([True, False, False, True], [3, 1]),
        (np.array([1, 1]), [1, 1]),
        (torch.tensor([3]), [1]),
        (FOUND.trusted, [3, 4]),
        (FOUND.trusted.numpy(), [3, 4]),
        ([], []),
        (np.array([], int), []),
    ],
)
def test_some_rows_are_predictions_again(rows: object, label: list[int]) -> None:
    part = FOUND[rows]
    assert isinstance(part, Predictions)
    assert part.label.tolist() == label
    assert all(column.shape == (len(label),) for column in vars(part).values())


def test_a_loop_goes_over_the_rows() -> None:
    assert [float(row.p_value) for row in FOUND] == P.tolist()
    assert [bool(row.trusted) for row in FOUND] == [True, False, True, False]
    assert [repr(row) for row in FOUND[:2]] == ["Predictions(1 input, 1 trusted)", "Predictions(1 input, 0 trusted)"]
    assert list(FOUND[:0]) == []


@pytest.mark.parametrize("row", [4, -5, 10**9])
def test_a_row_that_is_not_there(row: int) -> None:
    with pytest.raises(IndexError, match=f"row {row} of 4 predictions"):
        FOUND[row]


@pytest.mark.parametrize(
    "rows", ["trusted", 1.5, None, [0.5], [[0]], ["a"], [True, False], {}, torch.zeros(2, 2).long()]
)
def test_what_is_no_index_is_refused_with_advice(rows: object) -> None:
    with pytest.raises(
        ArgumentError, match=r"expected rows to be .* of 4 rows, got .*\. For a column .*predictions\.trusted"
    ):
        FOUND[rows]
