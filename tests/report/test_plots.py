import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid

from gradgeo import metrics
from gradgeo.attacks.decision_path import DecisionPath
from gradgeo.detector.results import Explanation, Statistic
from gradgeo.errors import ArgumentError
from gradgeo.report import plots

POINTS = 21


def made(
    *, detector: bool = True, label: torch.Tensor | None = None, switches: tuple[float, ...] = (0.4,)
) -> DecisionPath:
    position = torch.linspace(0, 1, POINTS, dtype=torch.float64)
    probability = torch.sigmoid(20 * (position - 0.4))
    return DecisionPath(
        position=position,
        label=torch.where(position < 0.4, 2, 0) if label is None else label,
        probabilities=torch.stack([probability, torch.zeros_like(probability), 1 - probability], dim=1),
        s1_mean=position.sin(),
        s2_mean=-position.sin(),
        zeta_mean=position - 0.3,
        zeta_min=position - 0.5,
        outlier_score=position if detector else None,
        p_value=1 - position if detector else None,
        trusted=position < 0.7 if detector else None,
        switches=torch.tensor(switches, dtype=torch.float64),
    )


@pytest.mark.page
@pytest.mark.parametrize(("ending", "head"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_pictures_are_written_without_a_display(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, head: bytes
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    plots.path(made(), tmp_path / f"path.{ending}")
    assert (tmp_path / f"path.{ending}").read_bytes().startswith(head)


def test_pyplot_is_not_touched() -> None:
    before = "matplotlib.pyplot" in sys.modules
    plots.path(made())
    assert ("matplotlib.pyplot" in sys.modules) == before
    if before:
        assert not sys.modules["matplotlib.pyplot"].get_fignums()


def test_each_part_has_its_colour_and_the_switch_a_line() -> None:
    figure = plots.path(made())
    probability, cosine, around, score = figure.axes
    assert [axes.get_ylabel() for axes in figure.axes] == ["probability", "mean of the CSM", "zeta", "outlier score"]
    for axes, first in ((cosine, made().s1_mean), (around, made().zeta_mean), (score, made().outlier_score)):
        curves = {line.get_color(): line for line in axes.lines if line.get_color() in (plots.START, plots.END)}
        solid = [line for line in axes.lines if line.get_linestyle() == "-" and line.get_color() in curves]
        assert [line.get_color() for line in solid] == [plots.START, plots.END]
        before, after = (line.get_xdata() for line in solid)
        assert (before[0], before[-1], after[0], after[-1]) == (0, 0.4, 0.4, 1)
        assert solid[1].get_ydata()[-1] == pytest.approx(float(first[-1]))
        assert [line.get_xdata() for line in axes.lines if list(line.get_xdata()) == [0.4, 0.4]]
    flagged = next(line for line in score.lines if line.get_label() == "not trusted")
    assert list(flagged.get_xdata()) == pytest.approx(made().position[made().position >= 0.7].tolist())
    start, end = probability.lines[1], probability.lines[0]
    colours = {line.get_color(): line.get_ydata()[0] for line in (start, end)}
    assert colours[plots.START] > 0.99
    assert colours[plots.END] < 0.01
    assert [text.get_text() for text in probability.texts] == ["seen as class 2", "seen as class 0"]
    assert score.get_xlabel().endswith("the label switches at 0.400")


def test_names_of_the_classes_and_no_detector() -> None:
    figure = plots.path(made(detector=False), names=("cat", "dog", "frog"))
    assert len(figure.axes) == 3
    assert [text.get_text() for text in figure.axes[0].texts] == ["seen as frog", "seen as cat"]


def test_a_class_between_has_a_third_colour() -> None:
    label = torch.tensor([2] * 5 + [1] * 10 + [0] * 6)
    figure = plots.path(made(label=label, switches=(0.22, 0.73)))
    assert [text.get_color() for text in figure.axes[0].texts] == [plots.START, plots.OTHER, plots.END]


def test_no_switch_and_holes() -> None:
    whole = made(label=torch.zeros(POINTS, dtype=torch.long), switches=())
    hole = whole.s1_mean.clone()
    hole[3:5] = torch.nan
    figure = plots.path(replace(whole, s1_mean=hole))
    assert figure.axes[-1].get_xlabel().endswith("the label does not switch")
    assert [text.get_color() for text in figure.axes[0].texts] == [plots.START]


def test_heat_maps_are_written(tmp_path: Path) -> None:
    panels = [
        plots.Panel("one", torch.rand(1, 8, 8), torch.eye(3), (0, 1, 2)),
        plots.Panel("two", torch.rand(1, 9), torch.eye(2), (0, 1)),
    ]
    figure = plots.csm_heat_maps(panels, tmp_path / "csm.png")
    assert (tmp_path / "csm.png").read_bytes().startswith(b"\x89PNG")
    assert [axes.get_title() for axes in figure.axes[:2]] == ["one", "two"]
    with pytest.raises(ArgumentError, match="csm_heat_maps: expected panels to be at least one"):
        plots.csm_heat_maps([])


def test_a_csm_has_its_values_names_and_frame(tmp_path: Path) -> None:
    matrix = torch.tensor([[1.0, -0.25, 0.5], [-0.25, 1.0, 0.0], [0.5, 0.0, 1.0]])
    figure = plots.csm(matrix, tmp_path / "csm.svg", classes=(4, 0, 7), predicted=7, names=("cat", "dog"))
    axes = figure.axes[0]
    assert (tmp_path / "csm.svg").read_bytes().startswith(b"<?xml")
    assert [text.get_text() for text in axes.texts] == [
        "1.00",
        "-.25",
        ".50",
        "-.25",
        "1.00",
        ".00",
        ".50",
        ".00",
        "1.00",
    ]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["4", "cat", "7"]
    assert sorted(patch.get_bbox().bounds for patch in axes.patches) == [(-0.5, 1.5, 3, 1), (1.5, -0.5, 1, 3)]
    assert axes.images[0].get_clim() == (-1, 1)
    many = plots.csm(torch.eye(13)).axes[0]
    assert not many.texts
    assert not many.patches
    assert not list(many.get_xticks())
    with pytest.raises(
        ArgumentError, match=r"^csm: expected matrix to be of shape \(K, K\), got a tensor of shape \(2, 3\)"
    ):
        plots.csm(torch.zeros(2, 3))
    with pytest.raises(ArgumentError, match=r"^csm: expected classes to be the 3 of the matrix"):
        plots.csm(matrix, classes=(1, 2))


@pytest.mark.page
def test_saliency_maps_share_one_scale(tmp_path: Path) -> None:
    maps = torch.stack([torch.full((3, 4, 4), value) for value in (-1.0, 0.5, 2.0)])
    figure = plots.saliency_maps(maps, torch.rand(3, 4, 4), tmp_path / "maps.png", classes=(5, 1, 2), names=("a", "b"))
    assert [axes.get_title() for axes in figure.axes[:4]] == ["input", "5", "b", "2"]
    shown = [axes.images[0] for axes in figure.axes[1:4]]
    assert {image.get_clim() for image in shown} == {(-2, 2)}
    assert [float(image.get_array().mean()) for image in shown] == [-1, 0.5, 2]
    lines = plots.saliency_maps(torch.ones(2, 3, 9)).axes
    assert [len(axes.lines) for axes in lines] == [4, 4]
    assert len(plots.saliency_maps(torch.zeros(8, 5)).axes) == 8
    with pytest.raises(ArgumentError, match=r"^saliency_maps: expected maps to be of shape \(K, channels, H, W\)"):
        plots.saliency_maps(torch.zeros(5))
    with pytest.raises(ArgumentError, match=r"^saliency_maps: expected classes to be the 2 of the maps"):
        plots.saliency_maps(torch.zeros(2, 5), classes=[1])


def explained(**values: tuple[float, float, float]) -> Explanation:
    statistics = {name: Statistic(value, 0.01, (low, high)) for name, (value, low, high) in values.items()}
    return Explanation(3, 0.9, 2.0, 0.004, False, None, {}, {}, statistics, (0, 1), torch.eye(2), None)


def test_statistics_stand_in_units_of_their_range(tmp_path: Path) -> None:
    told = explained(inside=(5, 0, 10), above=(15, 0, 10), far=(-1e6, 0, 10), lost=(torch.nan, 0, 1), flat=(2, 1, 1))
    figure = plots.statistics(told, tmp_path / "statistics.pdf")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["inside", "above", "far", "lost", "flat"]
    assert axes.get_title(loc="left") == "class 3: not trusted, p = 0.004"
    points = {int(line.get_ydata()[0]): (float(line.get_xdata()[0]), line.get_marker()) for line in axes.lines}
    assert points == {0: (0.5, "o"), 1: (1.5, "o"), 2: (-1.5, "<"), 4: (2.5, ">")}
    assert axes.lines[0].get_color() != axes.lines[1].get_color() == axes.lines[2].get_color()
    assert len(plots.statistics(told, count=2).axes[0].get_yticklabels()) == 2
    assert not plots.statistics(explained()).axes[0].get_yticklabels()
    with pytest.raises(
        ArgumentError, match=r"^statistics: expected explanation to be one of those that Detector.explain"
    ):
        plots.statistics("x")
    with pytest.raises(ArgumentError, match=r"^statistics: expected count to be a positive integer, got 0"):
        plots.statistics(told, count=0)


def test_roc_curves_enclose_the_auroc() -> None:
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(size=300).round(1), np.r_[rng.normal(1, 1, 200).round(1), np.nan]
    figure = plots.roc(inside, outside, alpha=0.05)
    mark, curve = figure.axes[0].lines[1:]
    assert list(mark.get_xdata()) == [0.05, 0.05]
    area = float(trapezoid(curve.get_ydata(), curve.get_xdata()))
    assert area == pytest.approx(metrics.auroc(inside, outside).value)
    assert (curve.get_xdata()[-1], curve.get_ydata()[-1]) == (1, 1)
    assert figure.axes[0].get_legend().get_texts()[0].get_text() == f"AUROC {metrics.auroc(inside, outside)}"
    assert len(plots.roc({"a": (inside, outside), "b": (inside, inside)}).axes[0].lines) == 3
    for bad in ((inside, None), ({"a": (inside, outside)}, outside)):
        with pytest.raises(ArgumentError, match=r"^roc: expected untrustworthy to be scores, or None"):
            plots.roc(*bad)
    with pytest.raises(ArgumentError, match=r"^roc: expected trusted to be at least one pair"):
        plots.roc({})


def test_a_notebook_shows_figures_without_pyplot() -> None:
    assert plots.csm(torch.eye(2))._repr_png_().startswith(b"\x89PNG")
