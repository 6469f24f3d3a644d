"""The caller's model as a differentiable function from inputs to logits that leaves no trace and is fast."""

from gradgeo.classifier.isolated_copy import Model
from gradgeo.classifier.split import tap
from gradgeo.classifier.wrapper import Classifier

__all__ = ["Classifier", "Model", "tap"]
