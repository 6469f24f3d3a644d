"""The estimator keeps scikit-learn's contract, and says what the detector says."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import Tensor, nn

from gradgeo import Detector
from gradgeo.errors import ArgumentError
from gradgeo.integrations.scikit_learn import OutlierDetector
from helpers.nets import inputs, network

X = inputs(120, shape=(12,)).double().numpy()


class AnyWidth(nn.Module):
    """A classifier of inputs of any width, which scikit-learn's checks are of."""

    def forward(self, x: Tensor) -> Tensor:
        wave = torch.arange(1.0, 4.0)[:, None] * torch.arange(x.shape[1])  # (3, F)
        return (x[:, None] * wave.sin().to(x)).sum(2)  # no matrix product, which rounds by the size of the batch


class Unlabelled(OutlierDetector):
    """What the checks give as y are no classes of the model."""

    def fit(self, X: Any, y: Any = None) -> "Unlabelled":
        return super().fit(X)


FEW = "a detector takes some trusted inputs, and the check gives one"
EXPECTED_FAILURES = {"check_fit2d_1sample": FEW}


@parametrize_with_checks(
    [Unlabelled(AnyWidth(), evidence=["confidence"], alpha=0.2)], expected_failed_checks=lambda _: EXPECTED_FAILURES
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def test_it_says_what_the_detector_says() -> None:
    model = network(inputs=12)
    estimator = OutlierDetector(model, evidence="fast", alpha=0.2).fit(X)
    odd = np.concatenate([X[:40], 9 * X[:40]])
    odd[3, 5] = np.nan
    with pytest.warns(UserWarning, match="1 of 80"):
        verdicts = Detector(model, evidence="fast", alpha=0.2).fit(X).predict(odd)
    with pytest.warns(UserWarning, match="1 of 80"):
        assert (estimator.predict(odd) == np.where(verdicts.trusted, 1, -1)).all()
    with pytest.warns(UserWarning, match="1 of 80"):
        decisions = estimator.decision_function(odd)
    assert ((decisions >= 0) == verdicts.trusted.numpy()).all()
    assert decisions[3] == -np.inf


def test_in_a_pipeline_with_names_and_labels() -> None:
    frame = pd.DataFrame(X, columns=[f"sensor {i}" for i in range(12)])
    model = network(inputs=12)
    pipeline = make_pipeline(StandardScaler(), OutlierDetector(model, evidence=["confidence"], alpha=0.2))
    with torch.no_grad():
        labels = model(torch.from_numpy(StandardScaler().fit_transform(X)).float()).argmax(1).numpy()
    labels[::10] = (labels[::10] + 1) % 4
    fitted = clone(pipeline).fit(frame, labels)
    assert fitted[-1].detector_.misclassified_ == 12
    assert set(fitted.predict(frame)) <= {1, -1}
    with pytest.raises(ValueError, match="feature names"):
        fitted.predict(frame.iloc[:, ::-1])


def test_rows_take_the_shape_of_an_input() -> None:
    class Pictures(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[1:] == (3, 2, 2)
            return x.flatten(1)[:, :4] * 5

    estimator = OutlierDetector(Pictures(), evidence=["confidence"], alpha=0.2, input_shape=(3, 2, 2)).fit(X)
    assert estimator.detector_.input_shape_ == (3, 2, 2)
    with pytest.raises(ArgumentError, match="of 13 entries"):
        OutlierDetector(Pictures(), alpha=0.2, input_shape=(13,)).fit(X)
