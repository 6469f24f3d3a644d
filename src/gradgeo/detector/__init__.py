"""From an input to a p-value: evidence, one-class models, fusion, calibration, and what the verdict rests on."""

from gradgeo.detector.detector import Detector
from gradgeo.detector.guard import guard
from gradgeo.detector.results import Explanation, Judgement, Predictions

__all__ = ["Detector", "Explanation", "Judgement", "Predictions", "guard"]
