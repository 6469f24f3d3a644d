"""Whether a model still is the one that its detector was fitted with."""

import threading
import warnings
from os import PathLike
from typing import Any

import torch
from torch import nn

from gradgeo.classifier import fingerprint
from gradgeo.classifier.change_detection import ModelState, weights_state
from gradgeo.classifier.isolated_copy import unwrapped
from gradgeo.classifier.wrapper import Classifier, Model
from gradgeo.detector.fitted import FittedDetector
from gradgeo.errors import DetectorFileError, GradgeoError, ModelError, warn

_LOCK = threading.Lock()  # one detector may judge in many threads


class ModelCheck:
    """Compares the model that a detector judges with the fingerprint of the one at `fit`.

    Args:
        known: the fingerprint.
    """

    def __init__(self, known: dict[str, Any]) -> None:
        self._known = known
        self._state: ModelState | None = None
        self._hashed = False
        self._differs = False

    def classifier(self, model: Model) -> Classifier:
        """The classifier of `model`; warns once where its weights are not those of `fit`, and again after they were.

        Cost: that of `Classifier.of`. Weights are hashed at the first call and where that sees a change, no other time.
        """
        classifier = Classifier.of(model)
        if isinstance(model, nn.Module):
            state = classifier.state or weights_state(unwrapped(model))
            with _LOCK:
                if not self._hashed or state != self._state:
                    self._compare(model, state)
        return classifier

    def warn_if_changed(self, model: Model) -> None:
        """Compare now, and warn whatever was said before."""
        self._differs = self._hashed = False
        self.classifier(model)

    def _compare(self, model: Model, state: ModelState | None) -> None:
        said, self._differs = self._differs, fingerprint.weights_hash(model) != self._known["weights"]
        self._state, self._hashed = state, True
        if self._differs and not said:
            warn(
                "the model's weights are not those the detector was fitted with: its false-alarm rate no longer holds. "
                "Fit again."
            )

    def admit(self, model: Model, fitted: FittedDetector, path: str | PathLike[str], *, strict: bool) -> None:
        """Look whether what was read from the file at `path` is of this model and fits it.

        Raises: DetectorFileError where it is of another model and `strict`, or cannot judge this one at all; ModelError
        where the model fails on the inputs of the fingerprint as it did not at `fit`.
        """
        difference = fingerprint.difference(self._known, model, fitted.input_shape)
        if difference and strict:
            raise DetectorFileError(
                f"{path} was fitted with another model: {difference}. Fit a detector for this model, or pass "
                "strict=False to use it without its guarantee."
            )
        classes = self._classes(model, fitted, path)
        if classes not in (None, fitted.num_classes):
            raise DetectorFileError(
                f"{path} was fitted with another model: it has {classes} classes instead of {fitted.num_classes}. "
                "Fit a detector for this model."
            )
        if difference:
            self._differs = True
            warn(f"{path} was fitted with another model: {difference}. Its false-alarm rate does not hold here.")

    def _classes(self, model: Model, fitted: FittedDetector, path: str | PathLike[str]) -> int | None:
        """How many classes the model has, by judging an empty batch, in which every size must meet its counterpart.

        A classifier of its own: what is prepared for the first batch must not be prepared for none.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyTorch's, of the spread of no numbers
                empty, keep = torch.empty(0, *fitted.input_shape), ("logits",)
                measured = fitted.extractor.measure(Classifier(model), [empty], batch_size=1, keep=keep, quiet=True)
            classes = None if measured.logits is None else measured.logits.shape[1]
            if classes == fitted.num_classes:
                fitted.check_widths(measured)
        except ModelError:
            if self._known["logits"] is None:  # it takes neither these inputs nor those of the fingerprint
                return None
            raise
        except GradgeoError:
            raise
        except Exception as error:  # whatever sizes that do not meet make of it
            raise DetectorFileError(f"{path} does not fit this model: {type(error).__name__}: {error}") from error
        return classes

    def __getstate__(self) -> dict[str, Any]:
        """Without what holds for this process alone: the addresses of the weights."""
        return vars(self) | {"_state": None, "_hashed": False}
