"""A run of `score` that breaks off."""

import torch

from gradgeo.detector.detector import Detector
from gradgeo.errors import ModelError


class Breaking:
    """A detector that raises once it has judged more than `inputs`."""

    def __init__(self, detector: Detector, inputs: int) -> None:
        self.detector, self.left = detector, inputs

    def __getattr__(self, name: str) -> object:
        return getattr(self.detector, name)

    def judge(self, x: torch.Tensor, *, explain: bool) -> object:
        self.left -= len(x)
        if self.left < 0:
            raise ModelError("out of memory")
        return self.detector.judge(x, explain=explain)
