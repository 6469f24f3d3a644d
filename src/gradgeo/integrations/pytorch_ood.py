"""A detector as pytorch-ood expects one, so that its benchmarks and metrics can be used on ours."""

from typing import Any, Self

import torch
from torch import Tensor

from gradgeo.detector.detector import Detector
from gradgeo.errors import public


class OodDetector:
    """`Detector` with the contract of pytorch-ood: `fit(loader)` and `predict(x)`, which returns outlier scores.

    Example:
        >>> import torch, gradgeo
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))
        >>> x = torch.rand(200, 3, 2, 2, generator=torch.Generator().manual_seed(0))
        >>> loader = DataLoader(TensorDataset(x, model(x).argmax(1)), batch_size=50)
        >>> OodDetector(gradgeo.Detector(model)).fit(loader).predict(x[:8]).shape
        torch.Size([8])

    Args:
        detector: fitted or not.
    """

    requires_fit = True

    def __init__(self, detector: Detector) -> None:
        self.detector = detector

    @public
    def fit(self, data_loader: Any) -> Self:
        """Fit on batches (x, label) of a loader; as in pytorch-ood, inputs with a negative label are left out."""
        known = [(x[y >= 0], y[y >= 0]) for x, y in data_loader]
        self.detector.fit(torch.cat([x for x, _ in known]), torch.cat([y for _, y in known]))
        return self

    @public
    def predict(self, x: Tensor) -> Tensor:
        """Outlier scores (N,) of inputs (N, *input), on their device; larger = less trustworthy, NaN as infinity."""
        score = self.detector.predict(x).outlier_score
        return torch.where(score.isnan(), torch.inf, score).to(x.device)

    def __call__(self, x: Tensor) -> Tensor:
        """`predict`."""
        return self.predict(x)

    def to(self, device: Any) -> Self:
        """Nothing to do: the detector works where the model is."""
        return self
