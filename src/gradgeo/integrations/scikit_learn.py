"""A detector as an outlier estimator of scikit-learn, for its pipelines, searches and metrics."""

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from gradgeo._typing import Array, IntArray
from gradgeo.classifier.wrapper import Model
from gradgeo.detector.detector import Detector
from gradgeo.detector.results import Predictions
from gradgeo.errors import expected


class OutlierDetector(OutlierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """`Detector` with the contract of scikit-learn's outlier detectors.

    Signs follow scikit-learn here, and here alone: `predict` gives 1 for a trusted input and -1 for another, scores are
    larger for more trustworthy ones. Rows that cannot be judged (NaN) are -1, with a score of -inf.

    Example:
        >>> import torch, gradgeo
        >>> model = torch.nn.Linear(12, 5)  # any trained classifier
        >>> x = torch.rand(200, 12, generator=torch.Generator().manual_seed(0)).numpy()
        >>> OutlierDetector(model, evidence="fast").fit(x).predict(x[:8]).shape
        (8,)

    Args:
        model: the classifier, as in `Detector`. `sklearn.base.clone` copies it with its weights.
        evidence, alpha, calibration, seed, batch_size: as in `Detector`.
        input_shape: of one input, into which a row of X is brought, (3, 32, 32) for instance; None for X as it is.

    Attributes:
        detector_: the fitted `Detector`.
        offset_: the least score of a trusted input; `decision_function` is `score_samples` less this.
        n_features_in_, feature_names_in_: of X, as scikit-learn has them.
    """

    def __init__(
        self,
        model: Model,
        *,
        evidence: str | Sequence[str] = "full",
        alpha: float = 0.05,
        calibration: float = 0.5,
        seed: int = 0,
        batch_size: int = 64,
        input_shape: tuple[int, ...] | None = None,
    ) -> None:
        self.model = model
        self.evidence = evidence
        self.alpha = alpha
        self.calibration = calibration
        self.seed = seed
        self.batch_size = batch_size
        self.input_shape = input_shape

    def fit(self, X: ArrayLike, y: ArrayLike | None = None) -> Self:
        """Fit on trusted inputs X (N, F) or (N, *input); with true classes y (N,) only correctly classified ones count.

        Raises: ArgumentError as `Detector.fit`.
        """
        inputs = self._inputs(X, reset=True)
        detector = Detector(
            self.model,
            evidence=self.evidence,
            alpha=self.alpha,
            calibration=self.calibration,
            seed=self.seed,
            batch_size=self.batch_size,
        )
        self.detector_ = detector.fit(inputs, None if y is None else np.asarray(y))
        calibrated = torch.from_numpy(detector.calibration_scores_)  # rising, and so their p-values fall
        within = detector.fitted_.calibration.p_value(calibrated) > self.alpha
        self.offset_ = -float(calibrated[within][-1])  # the least one's p-value is 1, so there is one
        return self

    def predict(self, X: ArrayLike) -> IntArray:
        """1 for a trusted input and -1 for another (N,)."""
        return np.where(self.judge(X).trusted.numpy(), 1, -1)

    def score_samples(self, X: ArrayLike) -> Array:
        """Minus the outlier score (N,): larger for more trustworthy inputs."""
        score = self.judge(X).outlier_score
        scores: Array = -torch.where(score.isnan(), torch.inf, score).numpy()
        return scores

    def decision_function(self, X: ArrayLike) -> Array:
        """`score_samples` less `offset_` (N,): negative for inputs that are not trusted."""
        return self.score_samples(X) - self.offset_

    def judge(self, X: ArrayLike) -> Predictions:
        """The verdicts with their labels and p-values, as `Detector.predict` gives them."""
        check_is_fitted(self)
        return self.detector_.predict(self._inputs(X, reset=False))

    def _inputs(self, X: ArrayLike, *, reset: bool) -> Array:
        kinds = [np.float64, np.float32]
        rows: Array = validate_data(self, X, reset=reset, dtype=kinds, allow_nd=True, ensure_all_finite=False)
        if self.input_shape is None:
            return rows  # (N, *)
        if rows[0].size != np.prod(self.input_shape):
            raise expected("each row of X", f"of {np.prod(self.input_shape)} entries for {self.input_shape}", rows)
        return rows.reshape(len(rows), *self.input_shape)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True  # such a row is not trusted
        tags.input_tags.three_d_array = True
        return tags
