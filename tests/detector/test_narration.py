"""What `fit` says of the data, and what it takes for forgotten."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from gradgeo import Detector, GradgeoWarning
from gradgeo.detector.extraction import LONG_ENOUGH, _seconds
from gradgeo.detector.fit.data_scan import DataScan
from gradgeo.detector.fit.narration import SILENT, FitObserver, Narrator, doubts, facts, observer_of
from gradgeo.detector.fit.suspects import KINDS
from gradgeo.detector.fusion import FOLDS

LABELS = np.arange(100) % 2


def scan(predicted: Any, labels: Any = LABELS, **others: Any) -> DataScan:
    """What was seen of 100 grey images of two classes."""
    n = len(predicted)
    correct = np.ones(n, bool) if labels is None else predicted == labels
    seen = DataScan(
        input_shape=(1, 4, 4), num_classes=2, first_usable=torch.zeros(1, 1, 4, 4), probability=np.ones(n),
        margin=np.ones(n), usable=np.ones(n, bool), correct=correct, content=np.arange(n), model_fingerprint={},
        predicted=predicted, labels=labels, low=0.0, high=1.0, record={},
    )  # fmt: skip
    return replace(seen, **others)


def test_facts() -> None:
    said = facts(scan(LABELS), unit="images", class_names=("defect", "ok"), preparation="not normalised")
    assert said == {
        "inputs": "100 images of 1 x 4 x 4, values 0 to 1, not normalised",
        "classes": "defect = 0, ok = 1",
        "right": "100.0% (100 of 100) of the labels; learns and calibrates from these alone",
    }
    said = facts(scan(LABELS, None, low=-2.123, high=np.nan), class_names=tuple("abcdefgh"))
    assert said["inputs"] == "100 inputs of 1 x 4 x 4, values -2.12 to nan"
    assert said["classes"] == "a = 0, b = 1, c = 2, d = 3, e = 4, f = 5 and 2 more; the model has 2"
    assert said["right"].startswith("not known")


@pytest.mark.parametrize(
    ("predicted", "others", "said"),
    [
        (LABELS, {}, None),
        (
            1 - LABELS,
            {},
            r"100 would be if the classes were numbered otherwise (label 0 is class 1, label 1 is class 0)",
        ),
        (
            0 * LABELS,
            {},
            "50 of 100 predictions are right, hardly more than by chance. Values lie in 0..1: does the model",
        ),
        (0 * LABELS, {"high": 255.0}, "Values go up to 255: does the model expect them in 0..1?"),
        (0 * LABELS, {"low": -2.0}, "Is the preparation of the inputs that of the model's training?"),
    ],
)
def test_doubts(predicted: Any, others: dict[str, Any], said: str | None) -> None:
    doubt = doubts(scan(predicted, **others))
    assert doubt is None if said is None else said in str(doubt)
    assert doubts(scan(predicted, None)) is None


def test_a_doubt_is_one_warning() -> None:
    with pytest.warns(GradgeoWarning, match="hardly more than by chance") as caught:
        scan(0 * LABELS).warn_if_unusable()
    with pytest.warns(GradgeoWarning, match="are the labels numbered as the model's classes are.*numbered otherwise"):
        scan(1 - LABELS).warn_if_unusable()
    assert len(caught) == 1


def test_who_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    own = FitObserver()
    assert observer_of(own) is own
    assert observer_of(None) is observer_of(False) is SILENT  # nobody looks at a test
    assert isinstance(observer_of(True), Narrator)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert isinstance(observer_of(None), Narrator)


def test_fit_tells_python_too_and_learns_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    x = torch.rand(120, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(9, 3))
    detector = Detector(model, evidence="fast")
    silent = detector.fit(x).digest()
    assert capsys.readouterr().err == ""
    assert detector.fit(x, progress=True).digest() == silent
    said = capsys.readouterr().err
    assert "120 inputs of 1 x 3 x 3" in said
    assert "an input, about" in said

    done: dict[str, int] = {}

    class Counting(FitObserver):
        @contextmanager
        def stage(self, name: str, total: int | None) -> Iterator[Callable[[int], None]]:
            assert total is not None
            done[name] = 0

            def advance(more: int) -> None:
                done[name] += more

            yield advance

    detector.fit(x, progress=Counting())
    made = detector.fit_size_ // FOLDS * len(KINDS)
    assert done == {"reading": 120, "measuring": 120, "outliers made from trusted inputs": made}

    detector.notes["class_names"] = ["cat", "dog", "yak"]
    (why,) = detector.explain(x[:1])
    assert repr(why).startswith(f"Explanation(class {detector.class_names_[why.label]} ({why.label}) (probability")
    assert len(repr(why)) < 100
    assert why.as_dict()["label_name"] == detector.class_names_[why.label]
    for wrong in (["cat"], ["cat", "cat", "dog"], "cat", None):
        detector.notes["class_names"] = wrong
        assert detector.class_names_ == ()


def test_the_first_call_of_all_is_not_counted() -> None:
    called: list[int] = []

    def work(some: torch.Tensor) -> None:
        time.sleep(0.0 if called else 2 * LONG_ENOUGH)  # as imports and compilation take
        called.append(len(some))

    assert _seconds(torch.zeros(32, 1), work) < LONG_ENOUGH
    assert called == [1, 1, 4, 32]
