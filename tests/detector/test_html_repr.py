from html.parser import HTMLParser

import pytest
import torch

import gradgeo
from gradgeo.detector import html_repr as notebook


class Cells(HTMLParser):
    """The words of a page, cell by cell; fails where tags do not close as they open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("div", "p", "b", "table", "thead", "tbody", "tr", "th", "td")
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))


def test_a_detector_tells_what_it_measures_and_was_fitted_on(model: torch.nn.Module) -> None:
    x = torch.rand(200, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    x[3] = torch.nan
    detector = gradgeo.Detector(model, evidence="paper", alpha=0.1)
    before = Cells(notebook.detector(detector, ["csm", "<b>&"])).words
    assert before[:2] == ["Detector", "not fitted: call fit(data) with trusted inputs"]
    assert before[before.index("evidence") + 1] == "csm, <b>&"
    assert before[before.index("alpha") + 1] == "0.1"
    assert "classes" not in before
    with pytest.warns(gradgeo.GradgeoWarning, match="1 of 200 inputs"):
        detector.fit(x)
    after = Cells(notebook.detector(detector, ["csm"])).words
    told = dict(zip(after[2::2], after[3::2], strict=False))
    assert told["fitted on"] == f"{detector.fit_size_} trusted inputs of shape 3 x 2 x 2"
    assert told["calibrated on"] == f"{detector.calibration_size_} others"
    assert told["classes"] == "5"
    assert told["loss"] == f"cross_entropy, temperature {detector.temperature_:.3g}"
    assert told["left out"] == "1 unusable"


@pytest.mark.parametrize("count", [0, 1, 10, 12])
def test_predictions_are_counted_and_the_first_are_shown(count: int) -> None:
    numbers = torch.linspace(0, 1, count, dtype=torch.float64)
    found = gradgeo.Predictions(torch.arange(count), numbers, numbers * torch.nan, numbers, numbers > 0.5)
    words = Cells(notebook.predictions(found)).words
    assert words[0] == f"{count} prediction" + "s" * (count != 1)
    assert words[1] == f", {int((numbers > 0.5).sum())} trusted"
    assert words.count("trusted") + words.count("not trusted") == min(count, 10)
    assert words.count("nan") == min(count, 10)
    assert ("and 2 more" in words) == (count == 12)


def test_notebooks_ask_the_detector_and_its_predictions() -> None:
    numbers = torch.tensor([0.5, 0.25])
    found = gradgeo.Predictions(torch.tensor([3, 1]), numbers, numbers, numbers, numbers > 0.3)
    assert found._repr_html_() == notebook.predictions(found)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))
    assert "not fitted" in gradgeo.Detector(model, evidence="paper")._repr_html_()
