"""Verdicts in the outputs of a MONAI evaluator, for its savers and metrics."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gradgeo.detector.detector import Detector
from gradgeo.detector.results import Predictions
from gradgeo.errors import DataError, public, require

FIELDS = ("p_value", "outlier_score", "trusted")


class TrustHandler:
    """A handler for MONAI's and Ignite's engines: judges the inputs of every iteration.

    Each output of the iteration, a dict, gets `p_value`, `outlier_score` and `trusted`, as MONAI's decollated outputs
    have `pred` and `label`; `engine.state.metrics["trusted_share"]` is the share of trusted inputs of the epoch, NaN
    before the first.

    Args:
        detector: fitted with the network of the evaluator.
        batch_transform: the inputs of `engine.state.batch`, which MONAI has as a list of dicts or a dict; default what
            `monai.handlers.from_engine(["image"])` takes. Metadata of a `MetaTensor` is left behind.
    """

    def __init__(self, detector: Detector, batch_transform: Callable[[Any], Any] | None = None) -> None:
        self._detector, self._batch_transform = detector, batch_transform or _images
        self._trusted = self._judged = 0

    @public
    def attach(self, engine: Any) -> None:
        """Listen to an engine. Raises: MissingDependencyError: Ignite, which MONAI's engines are of, is missing."""
        events = require("ignite.engine", "monai").Events
        engine.add_event_handler(events.EPOCH_STARTED, self._start)
        engine.add_event_handler(events.ITERATION_COMPLETED, self)

    def _start(self, engine: Any) -> None:
        self._trusted = self._judged = 0

    def __call__(self, engine: Any) -> None:
        """Judge the inputs of the iteration that has ended."""
        x = self._batch_transform(engine.state.batch)
        x = torch.stack([_plain(each) for each in x]) if not isinstance(x, Tensor) else _plain(x)
        predictions = self._detector.predict(x)
        self._trusted += int(predictions.trusted.sum())
        self._judged += len(predictions)
        engine.state.metrics["trusted_share"] = self._trusted / self._judged
        _add(engine.state.output, predictions)


def _images(batch: Any) -> Any:
    try:
        return batch["image"] if isinstance(batch, dict) else [each["image"] for each in batch]
    except (KeyError, TypeError, IndexError) as error:
        raise DataError('the batch has no inputs at "image". Pass batch_transform=.') from error


def _plain(x: Tensor) -> Tensor:
    return (x.as_tensor() if hasattr(x, "as_tensor") else x).detach()


def _add(output: Any, predictions: Predictions) -> None:
    if isinstance(output, dict):
        output |= {name: getattr(predictions, name) for name in FIELDS}
    elif isinstance(output, Sequence) and len(output) == len(predictions):
        for i, each in enumerate(output):
            if isinstance(each, dict):
                each |= {name: getattr(predictions, name)[i] for name in FIELDS}
