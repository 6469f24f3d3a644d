"""Evidence of a table's row itself: values, and pairs of values, that no trusted row has; said in words."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import gradgeo
from gradgeo.detector.columns import MOST, TOLD, is_row, seen

NAMES = ["carat", "depth", "price"]


def _rows(count: int, seed: int = 0) -> Tensor:
    """Rows whose third column follows the first."""
    rows = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    rows[:, 2] = rows[:, 0] + 0.1 * rows[:, 2]
    return rows


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


@pytest.fixture(scope="module")
def detector() -> gradgeo.Detector:
    return gradgeo.Detector(_model(), evidence=["confidence", "columns"]).fit(_rows(600))


def test_a_pair_of_values_that_no_row_has_is_flagged(detector: gradgeo.Detector) -> None:
    apart = torch.tensor([[1.5, 0.0, -1.5], [-1.5, 0.0, 1.5]])  # each value by itself is usual
    found = detector.explain(apart)
    assert all(not why.trusted and why.cause == "unlike" and why.seen == () for why in found)
    assert detector.predict(_rows(500, seed=1)).trusted.float().mean() > 0.9


def test_what_lies_beyond_all_trusted_rows_is_named(tmp_path: Path) -> None:
    table = pd.DataFrame(_rows(600).numpy(), columns=NAMES)
    detector = gradgeo.Detector(_model()).fit(table)
    assert "columns" in detector.evidence_
    detector.save(tmp_path / "table.gradgeo")
    odd = pd.DataFrame([[0.0, 90.0, 0.0], [-9.0, 0.0, -9.0]], columns=NAMES)
    for each in (detector, gradgeo.Detector.load(tmp_path / "table.gradgeo", _model())):
        assert [why.seen for why in each.explain(odd)] == [("depth too high",), ("carat too low", "price too low")]


def test_without_names_columns_are_numbered_and_few_are_told() -> None:
    assert seen([9.0, 1.0], [0.0, 0.0], [1.0, 1.0], ()) == ("column 0 too high",)
    many = [5.0] * 10
    words = seen(many, [0.0] * 10, [1.0] * 10, ())
    assert len(words) == TOLD + 1
    assert words[-1] == f"{10 - TOLD} other columns too low or high"
    assert seen(many[: TOLD + 1], [6.0] * 4, [7.0] * 4, ())[-1] == "1 other column too low or high"


@pytest.mark.parametrize(("shape", "expected"), [((5, 3), True), ((5, MOST), True), ((5, 1), False)])
def test_a_row_has_two_columns_or_more(shape: tuple[int, ...], expected: bool) -> None:
    assert is_row(torch.zeros(shape)) is expected


@pytest.mark.parametrize("shape", [(5, MOST + 1), (5, 3, 4), (5, 3, 4, 4)])
def test_pictures_signals_and_long_vectors_are_no_rows(shape: tuple[int, ...]) -> None:
    assert not is_row(torch.zeros(shape))


def test_a_column_that_never_changes_and_one_of_two_values_do_no_harm() -> None:
    rows = _rows(400)
    rows[:, 1] = 7.0
    rows = torch.cat([rows, (rows[:, :1] > 0).float()], dim=1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    detector = gradgeo.Detector(model).fit(rows)
    assert detector.predict(rows).p_value.isfinite().all()
    assert detector.predict(rows).trusted.float().mean() > 0.85
    changed = rows[:50].clone()
    changed[:, 1] = 8.0
    assert detector.predict(changed).trusted.float().mean() < 0.1
