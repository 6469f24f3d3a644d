"""A detector as a postprocessor of OpenOOD, for its evaluators and leaderboards.

OpenOOD is not imported: an evaluator of its version 1.5 asks a postprocessor for the names below and nothing else.

Source: J. Zhang et al., "OpenOOD v1.5: Enhanced benchmark for out-of-distribution detection", 2023.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gradgeo._typing import Array, IntArray
from gradgeo.detector.detector import Detector
from gradgeo.detector.results import Predictions
from gradgeo.errors import NotFittedError, public


class Postprocessor:
    """`Detector` with the contract of OpenOOD's `BasePostprocessor`: `Evaluator(net, postprocessor=Postprocessor())`.

    Signs follow OpenOOD here: confidence is larger for in-distribution inputs. It is minus the outlier score; an input
    that cannot be judged has -inf.

    Args:
        make: the detector of a network; default `Detector(net)`.
        split: of `id_loader_dict`, the trusted inputs that `setup` fits on: labelled, and not trained on.
    """

    APS_mode = False
    """There is no hyperparameter to search for."""

    hyperparam_search_done = True

    def __init__(self, make: Callable[[nn.Module], Detector] = Detector, *, split: str = "val") -> None:
        self._make, self._split = make, split
        self.detector: Detector | None = None

    @public
    def setup(self, net: nn.Module, id_loader_dict: Mapping[str, Any], ood_loader_dict: Any = None) -> None:
        """Fit on batches {"data", "label"} of a loader of in-distribution inputs; no outlier is looked at."""
        if self.detector is None:
            batches = [(batch["data"], batch["label"]) for batch in id_loader_dict[self._split]]
            x, labels = torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])
            self.detector = self._make(net).fit(x, labels)

    @public
    def postprocess(self, net: nn.Module, data: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted classes (N,) and confidences (N,), on the device of `data`."""
        predictions = self._judged(data)
        return predictions.label.to(data.device), _confidence(predictions).to(data.device)

    @public
    def inference(
        self, net: nn.Module, data_loader: Iterable[Mapping[str, Tensor]], progress: bool = True
    ) -> tuple[IntArray, Array, IntArray]:
        """Predicted classes, confidences and labels (N,) of all batches, as NumPy arrays."""
        found = [(self._judged(batch["data"]), batch["label"]) for batch in data_loader]
        labels = torch.cat([predictions.label for predictions, _ in found]).numpy()
        confidence = torch.cat([_confidence(predictions) for predictions, _ in found]).numpy()
        return labels, confidence, torch.cat([truth for _, truth in found]).cpu().numpy()

    def set_hyperparam(self, hyperparam: list[Any]) -> None:
        """Nothing to set."""

    def get_hyperparam(self) -> list[Any]:
        """None of them."""
        return []

    def _judged(self, x: Tensor) -> Predictions:
        if self.detector is None:
            raise NotFittedError("call setup first, as OpenOOD's Evaluator does")
        return self.detector.predict(x)


def _confidence(predictions: Predictions) -> Tensor:
    score = predictions.outlier_score
    return -torch.where(score.isnan(), torch.inf, score)
