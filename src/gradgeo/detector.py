"""The detector: fitted once on trusted inputs, it says of each prediction whether to trust it."""

import copy
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, fields
from numbers import Integral, Real
from os import PathLike
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradgeo import conformal, detector_file, fingerprint
from gradgeo.batches import Data, batches
from gradgeo.classifier import Classifier, Model
from gradgeo.errors import (
    ArgumentError,
    DetectorFileError,
    NotFittedError,
    UnusableInputWarning,
    choice,
    expected,
    public,
    warn,
)
from gradgeo.evidence import Observation, resolve
from gradgeo.geometry.losses import LOSSES, Loss
from gradgeo.geometry.saliency import Classes, ForwardPass, Maps, over_passes
from gradgeo.geometry.surrogates import SmoothReLU
from gradgeo.one_class import ClassConditionalCopula
from gradgeo.verdicts import Explanation, Predictions, Reference, Statistic

Array = NDArray[np.float64]

_SETTINGS = ("evidence", "alpha", "classes", "loss", "temperature", "calibration", "seed", "batch_size")
_FITTED = (
    *("input_shape", "num_classes", "loss", "temperature"),
    *("fit_size", "calibration_size", "misclassified", "unusable"),
)

MINIMUM_PER_FEATURE = 2  # trusted inputs that learning takes
TYPICAL_MARGIN = 0.75  # the quantile of trusted inputs' margins that becomes the temperature


class Detector:
    """A reject option for a trained classifier: an outlier score and a p-value for every prediction.

    Fitted on trusted inputs alone: no retraining, no outliers, no attacks. Scores follow one sign convention
    everywhere: larger = less trustworthy.

    Example:
        >>> import torch, gradgeo
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5))
        >>> x = torch.rand(200, 3, 2, 2, generator=torch.Generator().manual_seed(0))
        >>> detector = gradgeo.Detector(model, alpha=0.05).fit(x)
        >>> detector.predict(x[:8]).trusted.shape
        torch.Size([8])

    Args:
        model: the classifier, as in `saliency_maps`. It is never changed; if its weights change, fit again.
        evidence: what is measured: a preset ("paper": the ten statistics of the CSM) or a list of names from
            `gradgeo.evidence.EVIDENCE`.
        alpha: the false-alarm rate: the share of trusted inputs that may be called untrustworthy. May be set to
            another value after `fit`.
        classes: whose saliency maps are made: None for all, an int for each sample's most likely, a tensor (K,) for
            these; the predicted class is always among them.
        loss: "cross_entropy", "mse" or "logit", as in `saliency_maps`. With two classes the first two put a cosine of
            -1 on every input; `fit` then uses "logit" and says so.
        temperature: at which the loss is differentiated; "auto" is the upper quartile of the trusted inputs' margins
            (largest minus second logit), at which hardly any trusted input saturates the softmax; 1 is the paper's.
        calibration: share of the trusted inputs kept apart for the p-values.
        seed: decides which inputs those are.
        batch_size: inputs judged at a time.

    Learned by `fit`: `input_shape_`, `num_classes_`, `loss_`, `temperature_`, `fit_size_`, `calibration_size_`,
    `misclassified_` and `unusable_` (inputs that were left out).

    Source: Schwinn et al., UAI 2021, sections 3 and 4; p-values: see `gradgeo.conformal`. Deviations: the temperature,
    which the paper leaves at 1, and the one-class model (`gradgeo.one_class`).
    """

    @public
    def __init__(
        self,
        model: Model,
        *,
        evidence: str | list[str] | tuple[str, ...] = "paper",
        alpha: float = 0.05,
        classes: Classes = None,
        loss: str = "cross_entropy",
        temperature: float | str = "auto",
        calibration: float = 0.5,
        seed: int = 0,
        batch_size: int = 64,
    ) -> None:
        Classifier(model)  # refuses what is not a model
        self.model = model
        self.evidence = evidence
        self.alpha = alpha
        self.classes = classes
        self.loss = loss
        self.temperature = temperature
        self.calibration = calibration
        self.seed = seed
        self.batch_size = batch_size
        self.notes: dict[str, Any] = {}
        self._check()

    def _check(self) -> None:
        resolve(self.evidence)
        choice("loss", self.loss, LOSSES)
        for name in ("alpha", "calibration"):
            value = getattr(self, name)
            if not isinstance(value, Real) or not 0 < float(value) < 1:
                raise expected(name, "a number between 0 and 1", value)
        for name, least in (("seed", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
                raise expected(name, "a positive integer" if least else "an integer, 0 or more", value)
        if isinstance(self.temperature, str):
            choice("temperature", self.temperature, ("auto",))
        else:
            Loss(self.loss, self.temperature)
        if isinstance(self.classes, Tensor) and (self.classes.ndim != 1 or len(self.classes) < 2):
            raise expected("classes", "None, an int, or an integer tensor of shape (K,), K >= 2", self.classes)

    @public
    def fit(self, data: Data, labels: Any = None) -> Self:
        """Learn what trusted inputs look like, and calibrate the p-values on a part kept apart.

        The data should be what the classifier meets in production when all is well, and not what it was trained on:
        on its training inputs it is too confident, and the stated false-alarm rate would not hold.

        Args:
            data: a tensor or array (N, *input), or a Dataset or DataLoader of x or (x, label, ...). Read twice, so it
                must give the same inputs in the same order both times; a shuffling loader is read in order.
            labels: (N,) true classes for a tensor or array. Where there are labels, only correctly classified inputs
                count as trusted.

        Cost: two forward passes per input and one backward pass per map.

        Raises:
            ArgumentError: too few trusted inputs (the message says how many are needed), labels out of range, inputs
                of differing shape, data that changed between the two readings.
        """
        self._check()
        fresh = copy.copy(self)  # so that a failed fit leaves an earlier one as it was
        fresh._fit(data, labels)
        vars(self).update(vars(fresh))
        return self

    def _fit(self, data: Data, labels: Any) -> None:
        survey = self._survey(data, labels)
        trusted = survey.usable & survey.correct
        self.num_classes_ = survey.num_classes
        self.unusable_ = int((~survey.usable).sum())
        self.misclassified_ = int((survey.usable & ~survey.correct).sum())
        self.loss_ = self._loss_for(self.num_classes_)
        self.classes_, self._evidence = self.classes, resolve(self.evidence)
        if self.unusable_:
            warn(
                f"{self.unusable_} of {len(trusted)} inputs have NaN or infinite values or logits and are left out.",
                UnusableInputWarning,
            )
        if self.misclassified_ > trusted.sum():
            warn(
                f"{self.misclassified_} of {len(trusted)} inputs count as misclassified: are the labels numbered as "
                "the model's classes are?"
            )
        self._require_enough(trusted, f"{self.misclassified_} are misclassified, {self.unusable_} unusable")

        order = np.random.default_rng(self.seed).permutation(np.flatnonzero(trusted))
        size = conformal.calibration_size(
            len(order), self.calibration, self.alpha, at_most=len(order) - MINIMUM_PER_FEATURE * self._width
        )
        calibration, fit = np.sort(order[:size]), np.sort(order[size:])
        self.temperature_ = self._temperature_for(survey.margin[fit])

        measured = self._measure(_only(batches(data, batch_size=self.batch_size, labelled=False), trusted))
        label = survey.predicted.copy()
        # Another batch may round differently; more than that is another input.
        if (
            len(measured.label) != trusted.sum()
            or np.mean(np.abs(measured.probability - survey.probability[trusted]) > 1e-3) > 0.01
        ):
            raise expected(
                "data",
                "the same at both readings",
                "other predictions at the second",
                "Use a data set without random augmentation and a model that draws no random numbers.",
            )
        features = np.full((len(trusted), self._width), np.nan)
        features[trusted], label[trusted] = measured.features, measured.label
        alive = np.isfinite(features).all(1)
        self._require_enough(alive, f"{int((trusted & ~alive).sum())} have no gradient at all (dead network)")
        fit, calibration = fit[alive[fit]], calibration[alive[calibration]]
        if len(fit) < MINIMUM_PER_FEATURE * self._width or len(calibration) < conformal.needed(self.alpha):
            raise ArgumentError(
                f"expected more inputs with gradients, got {len(fit)} to learn from, {len(calibration)} to calibrate "
                "on after the dead ones were left out. Give more data or a larger alpha."
            )

        self._one_class = ClassConditionalCopula.fit(features[fit], label[fit], self.num_classes_)
        self._reference = _References(calibration, label[calibration], features[calibration])
        self._calibration = np.sort(self._scores(features[calibration], label[calibration]))
        self.fit_size_, self.calibration_size_ = len(fit), len(calibration)

    def _require_enough(self, trusted: NDArray[np.bool_], lost: str) -> None:
        calibrate, learn = conformal.needed(self.alpha), MINIMUM_PER_FEATURE * self._width
        if trusted.sum() < calibrate + learn:
            raise ArgumentError(
                f"expected at least {calibrate + learn} trusted inputs ({calibrate} to calibrate alpha = {self.alpha}, "
                f"{learn} to learn {self._width} features), got {int(trusted.sum())} of {len(trusted)} inputs: {lost}. "
                "Give more data or a larger alpha."
            )

    def _maps(self) -> Maps:
        return Maps(Loss(self.loss_, self.temperature_), self.classes_)

    def _loss_for(self, num_classes: int) -> str:
        if num_classes > 2 or self.loss == "logit":
            return self.loss
        warn(
            f"with two classes the {self.loss} maps of both are opposite for every input (cosine -1); using the "
            'gradients of the raw logits instead (loss="logit").'
        )
        return "logit"

    def _temperature_for(self, margins: Array) -> float:
        if not isinstance(self.temperature, str):
            return float(self.temperature)
        return max(float(np.quantile(margins, TYPICAL_MARGIN)), 1e-6)

    def _survey(self, data: Data, labels: Any) -> "_Survey":
        """One forward pass over the fit data: what is predicted, by what margin, and whether it is right."""
        classifier = Classifier.of(self.model)
        shape: tuple[int, ...] | None = None
        rows = []
        for x, y in batches(data, labels, batch_size=self.batch_size):
            shape = shape or tuple(x.shape[1:])
            if tuple(x.shape[1:]) != shape:
                raise expected("every input", f"of the same shape {shape}", x)
            judged = classifier.judge(x)
            logits, usable = judged.logits.cpu(), judged.usable.cpu()
            predicted = logits.argmax(1)
            if y is not None and len(y) and not (int(y.min()) >= 0 and int(y.max()) < logits.shape[1]):
                raise expected("labels", f"within 0..{logits.shape[1] - 1}", f"{int(y.min())}..{int(y.max())}")
            correct = torch.ones_like(usable) if y is None else predicted == y
            top = logits.double().topk(2, dim=1).values
            probability = logits.double().softmax(1).amax(1)
            rows.append((predicted, probability, top[:, 0] - top[:, 1], usable, correct))
            num_classes = logits.shape[1]
        if shape is None:
            raise expected("data", "at least one input", "none")
        self.input_shape_ = shape
        return _Survey(num_classes, *(torch.cat(column).numpy() for column in zip(*rows, strict=True)))

    def _measure(self, inputs: Iterable[Tensor], *, keep_csm: bool = False) -> "_Measured":
        """Features, labels and probabilities of `inputs`, and their CSMs if asked; warns about those without."""
        maps = self._maps()

        def measure(forward: ForwardPass, maps: Maps) -> tuple[Tensor, ...]:
            observation = Observation(forward, maps)
            features = torch.cat([e.measure(observation).double() for e in self._evidence], dim=1)
            probability = forward.logits.double().softmax(1).amax(1)
            columns = (
                torch.where(forward.usable[:, None], features, torch.nan),
                torch.where(forward.usable, forward.predicted, -1),
                torch.where(forward.usable, probability, torch.nan),
                *((observation.csm, observation.classes) if keep_csm else ()),
            )
            return tuple(column.cpu() for column in columns)

        rows = over_passes(self.model, inputs, maps, None, measure, at_most=self.batch_size)
        if not rows:
            return _Measured(np.empty((0, self._width)), np.empty(0, np.int64), np.empty(0))
        features, label, probability, *csm = (torch.cat(column) for column in zip(*rows, strict=True))
        measured = _Measured(features.numpy(), label.numpy(), probability.numpy(), *csm)
        if dead := int((~np.isfinite(measured.features).all(1) & (measured.label >= 0)).sum()):
            warn(
                f"{dead} of {len(label)} inputs have no gradient at all (dead network): they cannot be judged.",
                UnusableInputWarning,
            )
        return measured

    def _inputs(self, x: Data) -> Iterator[Tensor]:
        """The batches of `x`, each of the shape `fit` saw."""
        for batch, _ in batches(x, batch_size=self.batch_size, labelled=False):
            if tuple(batch.shape[1:]) != self.input_shape_:
                shape = ", ".join(map(str, self.input_shape_))
                raise expected("x", f"of shape (N, {shape}) as in fit", batch)
            yield batch

    def _judge(self, x: Data, *, keep_csm: bool = False) -> "tuple[Predictions, _Measured]":
        self._require_fit()
        self._check()
        measured = self._measure(self._inputs(x), keep_csm=keep_csm)
        score = self._scores(measured.features, measured.label)
        p = conformal.p_values(self._calibration, score)
        if conformal.needed(self.alpha) > self.calibration_size_:
            warn(
                f"no input can be flagged at alpha = {self.alpha} with {self.calibration_size_} calibration inputs: "
                f"p-values start at {1 / (self.calibration_size_ + 1):.4f}. Fit again with this alpha."
            )
        columns = (measured.label, measured.probability, score, p, np.greater(p, self.alpha))
        return Predictions(*map(torch.from_numpy, columns)), measured

    def differentiable_score(self, x: Tensor, *, sharpness: float | None = 5.0) -> Tensor:
        """The outlier score (N,) as a function of `x` (N, *input) that can be differentiated, for attacks.

        Signs get the slope of a tanh, and ReLUs the derivatives of a softplus that bends over a width of (root mean
        square of their input) / sharpness, so the maps are those of a smoother network and the value is near that of
        `outlier_score`; with `sharpness` None ReLUs stay as they are and the value is the same
        (`gradgeo.geometry.surrogates`). Call it with gradients enabled.

        Cost: one forward and K backward passes with their graph, which stays in memory: pass few inputs.
        """
        self._require_fit()
        maps = self._maps()
        with nullcontext() if sharpness is None else SmoothReLU(sharpness):
            observation = Observation(ForwardPass(Classifier.of(self.model), x, differentiable=True), maps)
            features = torch.cat([e.measure(observation).double() for e in self._evidence], dim=1)
        return self._one_class.score(features.cpu(), observation.forward.predicted.cpu())

    def _scores(self, features: Array, label: NDArray[np.int64]) -> Array:
        return self._one_class.score(torch.from_numpy(features), torch.from_numpy(label)).numpy()

    def _require_fit(self) -> None:
        if not hasattr(self, "_one_class"):
            raise NotFittedError("the detector is not fitted. Call fit(data) with trusted inputs first.")

    @public
    def predict(self, x: Data) -> Predictions:
        """Predictions and verdicts for inputs (N, *input) of the shape given to `fit`.

        A tensor, array, Dataset or DataLoader as in `fit`; labels are ignored. Rows that cannot be judged are not
        trusted, have NaN scores, and raise one warning with their count; see `Predictions`.

        Deterministic. Across batch sizes float32 rounding differs in the last bit: a gradient entry within rounding of
        zero may then flip its sign and move a score (see results/).

        Cost: one forward pass and K backward passes per input.

        Raises: NotFittedError before `fit`; ArgumentError for inputs of another shape or type.
        """
        return self._judge(x)[0]

    @public
    def outlier_score(self, x: Data) -> Tensor:
        """Outlier scores (N,), float64, larger = less trustworthy; see `predict`."""
        return self._judge(x)[0].outlier_score

    @public
    def p_value(self, x: Data) -> Tensor:
        """Split-conformal p-values (N,), float64: P(p <= alpha | trusted) <= alpha for any alpha and sample size.

        The probability is over the draw of the calibration inputs and of a trusted input exchangeable with them.
        """
        return self._judge(x)[0].p_value

    @public
    def explain(self, x: Data) -> list[Explanation]:
        """What each verdict rests on: every statistic beside its trusted range, the CSM, the nearest trusted input.

        Cost: that of `predict`.
        """
        predictions, measured = self._judge(x, keep_csm=True)
        if measured.csm is None or measured.classes is None:
            return []
        nearest = self._nearest(measured.features)
        low, high = np.quantile(self._reference.reference_features, [0.05, 0.95], axis=0)
        return [
            Explanation(
                label=int(predictions.label[i]),
                probability=float(predictions.probability[i]),
                outlier_score=float(predictions.outlier_score[i]),
                p_value=float(predictions.p_value[i]),
                trusted=bool(predictions.trusted[i]),
                statistics=self._statistics(measured.features[i], low, high),
                classes=tuple(measured.classes[i].tolist()),
                csm=measured.csm[i],
                nearest=nearest[i],
            )
            for i in range(len(predictions))
        ]

    def _statistics(self, features: Array, low: Array, high: Array) -> dict[str, Statistic]:
        names = [name for e in self._evidence for name in e.features]
        table = self._reference.reference_features
        below, above = (1 + (table <= features).sum(0)), (1 + (table >= features).sum(0))
        p = np.where(np.isnan(features), np.nan, np.minimum(1, 2 * np.minimum(below, above) / (len(table) + 1)))
        return {
            names[j]: Statistic(float(features[j]), float(p[j]), (float(low[j]), float(high[j])))
            for j in np.argsort(p, kind="stable")
        }

    def _nearest(self, features: Array) -> list[Reference | None]:
        scores = [torch.from_numpy(table) for table in (features, self._reference.reference_features)]
        ours, theirs = (self._one_class.normal_scores(table) for table in scores)
        distance, index = torch.cdist(ours.nan_to_num(0.0), theirs).min(1)
        return [
            Reference(
                int(self._reference.reference_index[j]), int(self._reference.reference_label[j]), float(distance[i])
            )
            if np.isfinite(features[i]).all()
            else None
            for i, j in enumerate(index.tolist())
        ]

    @public
    def save(self, path: str | PathLike[str], *, notes: dict[str, Any] | None = None) -> None:
        """Write the fitted detector, without the model, to one file: safetensors with JSON metadata.

        `notes` (anything JSON can hold) is kept beside it and comes back as `detector.notes`. The file is written
        under another name and moved into place, so an interrupted save leaves the old file as it was.
        """
        self._require_fit()
        if notes is not None:
            if not isinstance(notes, dict):
                raise expected("notes", "a dict that JSON can hold", notes)
            self.notes = notes
        settings = {name: _plain(getattr(self, name)) for name in _SETTINGS}
        settings["evidence"] = [e.name for e in self._evidence]
        settings["classes"] = self.classes_.tolist() if isinstance(self.classes_, Tensor) else self.classes_
        fitted = {name: getattr(self, f"{name}_") for name in _FITTED}
        contents = detector_file.Contents(
            settings=settings,
            fitted=fitted,
            fingerprint=fingerprint.of(self.model, self.input_shape_),
            notes=self.notes,
            arrays={**vars(self._one_class), **vars(self._reference), "calibration": self._calibration},
        )
        detector_file.write(path, contents)

    @classmethod
    @public
    def load(cls, path: str | PathLike[str], model: Model, *, strict: bool = True) -> Self:
        """Read a detector written by `save`, for the model it was fitted with.

        Args:
            path: the file. Nothing in it is executed; a damaged or hostile file raises DetectorFileError.
            model: the classifier. It is compared with the one at `fit` by a hash of its weights and by its logits on
                two synthetic inputs.
            strict: refuse another model; with False warn only (the stated false-alarm rate then holds no more).
        """
        contents = detector_file.read(path)
        settings = dict(contents.settings)
        if isinstance(settings["classes"], list):
            settings["classes"] = torch.tensor(settings["classes"])
        detector = cls(model, **settings)
        for name, value in contents.fitted.items():
            setattr(detector, f"{name}_", tuple(value) if isinstance(value, list) else value)
        detector.notes = contents.notes
        difference = fingerprint.difference(contents.fingerprint, model, detector.input_shape_)
        if difference and (strict or fingerprint.num_classes(model, detector.input_shape_) != detector.num_classes_):
            raise DetectorFileError(
                f"{path} was fitted with another model: {difference}. Fit a detector for this model, or pass "
                "strict=False to use it without its guarantee."
            )
        if difference:
            warn(f"{path} was fitted with another model: {difference}. Its false-alarm rate does not hold here.")
        arrays = contents.arrays
        detector.classes_, detector._evidence = detector.classes, resolve(detector.evidence)
        if arrays["center"].shape[1] != detector._width:
            raise DetectorFileError(f"{path} holds {arrays['center'].shape[1]} features, not {detector._width}.")
        detector._one_class = ClassConditionalCopula(**{f.name: arrays[f.name] for f in fields(ClassConditionalCopula)})
        detector._reference = _References(**{f.name: arrays[f.name] for f in fields(_References)})
        detector._calibration = arrays["calibration"]
        return detector

    @property
    def _width(self) -> int:
        return sum(len(e.features) for e in self._evidence)

    def __repr__(self) -> str:
        state = f"fitted on {self.fit_size_} + {self.calibration_size_}" if hasattr(self, "fit_size_") else "not fitted"
        names = ", ".join(e.name for e in resolve(self.evidence))
        return f"Detector(evidence=[{names}], alpha={self.alpha}, {state})"


@dataclass(frozen=True)
class _Survey:
    num_classes: int
    predicted: NDArray[np.int64]
    probability: Array
    margin: Array
    usable: NDArray[np.bool_]
    correct: NDArray[np.bool_]


@dataclass(frozen=True)
class _Measured:
    features: Array  # (N, F)
    label: NDArray[np.int64]  # (N,), -1 where unusable
    probability: Array  # (N,)
    csm: Tensor | None = None  # (N, K, K)
    classes: Tensor | None = None  # (N, K)


@dataclass(frozen=True)
class _References:
    """The calibration inputs, as features only: what explanations compare with."""

    reference_index: NDArray[np.int64]  # positions in the fit data
    reference_label: NDArray[np.int64]
    reference_features: Array


def _plain(value: Any) -> Any:
    """A NumPy number as Python's."""
    return value.item() if isinstance(value, np.generic) else value


def _only(batched: Iterable[tuple[Tensor, Tensor | None]], kept: NDArray[np.bool_]) -> Iterator[Tensor]:
    """The inputs whose position is `kept`."""
    start = 0
    for x, _ in batched:
        part = kept[start : start + len(x)]
        if len(part) < len(x):
            raise expected("data", "the same at both readings", "more inputs at the second")
        start += len(x)
        if part.any():
            yield x[torch.from_numpy(part).to(x.device)]
