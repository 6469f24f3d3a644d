"""Our postprocessor asked in the way OpenOOD's evaluator of version 1.5 asks."""

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

from gradgeo import Detector
from gradgeo.errors import NotFittedError
from gradgeo.integrations.openood import Postprocessor


def loader(x: Tensor, y: Tensor) -> list[dict[str, Tensor]]:
    return [{"data": x[i : i + 4], "label": y[i : i + 4]} for i in range(0, len(x), 4)]


def test_what_the_evaluator_asks_for(fitted: Detector, x: Tensor) -> None:
    made: list[Detector] = []

    class Known(Detector):
        def fit(self, *arguments: Any, **options: Any) -> Any:
            made.append(self)
            return fitted

    postprocessor = Postprocessor(Known)
    with pytest.raises(NotFittedError, match="call setup first"):
        postprocessor.inference(fitted.model, loader(x, torch.zeros(10)))
    labels = torch.arange(10) % 4
    for _ in range(2):  # an evaluator sets it up for each benchmark
        postprocessor.setup(fitted.model, {"val": loader(x, labels)}, {})
    assert len(made) == 1
    wanted = fitted.predict(x)
    predicted, confidence, truth = postprocessor.inference(fitted.model, loader(x, labels), progress=False)
    assert predicted.tolist() == wanted.label.tolist()
    assert truth.tolist() == labels.tolist()
    assert confidence == pytest.approx((-wanted.outlier_score).numpy(), rel=1e-4)
    broken = x.clone()
    broken[2] = torch.nan
    with pytest.warns(UserWarning, match="1 of 10"):
        assert postprocessor.postprocess(fitted.model, broken)[1].isneginf().nonzero().tolist() == [[2]]
    assert postprocessor.APS_mode is False
    assert postprocessor.set_hyperparam(postprocessor.get_hyperparam()) is None


def test_the_real_base_class_has_no_other_names() -> None:
    base = pytest.importorskip("openood.postprocessors", reason="openood is not installed").BasePostprocessor
    for name, function in inspect.getmembers(base, inspect.isfunction):
        if not name.startswith("_"):
            assert list(inspect.signature(function).parameters) == list(
                inspect.signature(getattr(Postprocessor, name)).parameters
            )
