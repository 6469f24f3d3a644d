import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gradgeo import plots
from gradgeo.errors import ArgumentError, MissingDependencyError
from gradgeo.path import DecisionPath

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


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"path: matplotlib is needed here .*gradgeo\[plots\]"):
        plots.path(made())
