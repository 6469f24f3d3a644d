"""The detector: fitted once on trusted inputs, it says of each prediction whether to trust it."""

from __future__ import annotations  # signatures say ArrayLike, not the union behind it

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import fields
from os import PathLike
from typing import Any, Self

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gradgeo.classifier.wrapper import Classifier, Model
from gradgeo.detector import html_repr, inputs
from gradgeo.detector.evidence import resolve
from gradgeo.detector.extraction import EvidenceFeatures
from gradgeo.detector.file import serialization
from gradgeo.detector.fit import fitting
from gradgeo.detector.fit.narration import FitObserver, observer_of
from gradgeo.detector.fitted import FittedDetector
from gradgeo.detector.inputs import for_model
from gradgeo.detector.model_check import ModelCheck
from gradgeo.detector.recalibration import Recalibrated
from gradgeo.detector.results import Explanation, Judgement, Predictions
from gradgeo.detector.settings import Settings
from gradgeo.errors import expected, public
from gradgeo.geometry.autograd import DifferentiableJacobian
from gradgeo.geometry.options import Classes
from gradgeo.geometry.surrogates import SmoothReLU


class Detector(Recalibrated):
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
        model: the classifier, as in `saliency_maps`. It is never changed; if its weights change, fit again: verdicts on
            other weights than those of `fit` come with one warning.
        evidence: what is measured: a preset or a list of names from `gradgeo.evidence.EVIDENCE`. "full": all of it;
            "fast": what takes one backward pass; "lite": what takes 3 forward passes and no backward pass;
            "paper": the ten statistics of the CSM. A preset, or a list that holds all of one, leaves out
            what the model does not have, penultimate features for instance.
        alpha: the false-alarm rate: the share of trusted inputs that may be called untrustworthy. May be set to
            another value after `fit`.
        confidence: with what probability the rate of the one detector that `fit` makes is at most alpha. None: its
            mean over calibration sets is, and single ones are above or below (`false_alarm_rate_` says by how much).
            With 0.95 fewer inputs are flagged, so that 95 of 100 detectors keep to alpha. P-values do not change.
        classes: whose saliency maps are made: None for all, an int for each sample's most likely, a tensor (K,) for
            these; the predicted class is always among them. "auto": all up to 20, of more the 20 most likely.
        loss: "cross_entropy", "mse" or "logit", as in `saliency_maps`. With two classes the first two put a cosine of
            -1 on every input; `fit` then uses "logit" and warns.
        temperature: at which the loss is differentiated; "auto" is the upper quartile of the trusted inputs' margins
            (largest minus second logit), at which hardly any trusted input saturates the softmax.
        rescale, channel_max: of the maps, as in `csm`: what the public code of the paper's authors does.
        one_class: the model of features that are suspicious wherever few trusted inputs lie, those of the CSM for
            instance: "copula", or "loda", which is the paper's.
        emphasis: what matters most: "mistakes", "ood" or "attacks"; None for all alike. `fit` chooses how much each
            question counts by outliers made from trusted inputs, attacks on these, and known mistakes.
        noise: None, or the standard deviation of Gaussian noise Z in input units: x + Z is then classified and judged,
            another Z in each query, and fitted and calibrated likewise. `gradgeo.certificate` says what that proves.
        calibration: share of the trusted inputs set apart for the p-values.
        seed: decides which inputs those are.
        batch_size: inputs judged at a time.

    Learned by `fit`: `input_shape_`, `columns_`, `num_classes_`, `loss_`, `temperature_`, `radius_` (of the
    neighbourhood, in input units), `fit_size_`, `calibration_size_`, `misclassified_` and `unusable_` (inputs that were
    left out), `groups_`, `false_alarm_rate_`.

    Source: Schwinn et al., UAI 2021, sections 3 and 4; p-values: see `gradgeo.detector.calibration.conformal`.
    Deviations: evidence beyond the ten statistics, and how it is fused; the temperature; the copula.
    """

    @public
    def __init__(
        self,
        model: Model,
        *,
        evidence: str | Sequence[str] = "full",
        alpha: float = 0.05,
        confidence: float | None = None,
        classes: Classes | str = "auto",
        loss: str = "cross_entropy",
        temperature: float | str = "auto",
        rescale: bool = False,
        channel_max: bool = False,
        one_class: str = "copula",
        emphasis: str | None = None,
        noise: float | None = None,
        calibration: float = 0.5,
        seed: int = 0,
        batch_size: int = 64,
    ) -> None:
        Classifier(model)  # refuses what is not a model
        self.model = model
        self.evidence, self.one_class, self.emphasis = evidence, one_class, emphasis
        self.alpha, self.confidence = alpha, confidence
        self.classes, self.loss, self.temperature = classes, loss, temperature
        self.rescale, self.channel_max, self.noise = rescale, channel_max, noise
        self.calibration, self.seed, self.batch_size = calibration, seed, batch_size
        self.notes: dict[str, Any] = {}
        self._model_check = ModelCheck({})
        self.settings  # noqa: B018  # checks the arguments

    @property
    def settings(self) -> Settings:
        """The arguments as they are now, checked: an attribute may have been set to anything since."""
        return Settings(**{field.name: getattr(self, field.name) for field in fields(Settings)})

    @public
    def fit(
        self,
        data: ArrayLike | Dataset[Any] | DataLoader[Any],
        labels: ArrayLike | None = None,
        *,
        groups: Sequence[int | str] | ArrayLike | None = None,
        together: Sequence[int | str] | ArrayLike | None = None,
        progress: bool | FitObserver | None = None,
    ) -> Self:
        """Learn what trusted inputs look like, and calibrate the p-values on a part set apart.

        The data should be what the classifier meets in production when all is well, and not what it was trained on:
        on its training inputs it is too confident, and the stated false-alarm rate would not hold.

        Args:
            data: a tensor or array (N, *input), a table of numbers (pandas, polars, Arrow), whose columns are then
                taken by name, for a model that `gradgeo.text` made a list or column of texts, or a Dataset or
                DataLoader of x, (x, label, ...) or mappings such as {"image": x, "label": y}. Read twice and in part
                a third time, so it must give the same inputs in the same order; a shuffling loader is read in order.
            labels: (N,) true classes for a tensor, array or table. Where there are labels, only correctly classified
                inputs count as trusted.
            groups: (N,) numbers or texts, one per input: its site, scanner, shift, lot or sex, of which `predict` may
                be told too, so that the false-alarm rate holds in each group by itself. Without `together` a group
                that is too small for that calibrates as a whole or not at all.
            together: (N,) numbers or texts, one per input: its patient, video or original. Inputs of one calibrate
                as a whole or not at all, for inputs that resemble each other on both sides void the false-alarm rate.
                Inputs that are equal entry by entry count once, the first of them, with a warning.
            progress: say what was seen of the data and how far it is; None for where a terminal or notebook shows it.

        A fit that fails leaves an earlier one as it was. Cost: two forward passes per input, and what its evidence
        costs, of the inputs and of 336 made outliers; of the neighbourhood 12 backward passes more for each of 256.

        Raises:
            ArgumentError: too few trusted inputs (the message says how many are needed), labels out of range, inputs
                of differing shape, data that changed between the two readings, a table with columns that are no
                numbers.
        """
        return self.adopt(fitting.fit(self.model, data, labels, self.settings, together, groups, observer_of(progress)))

    def adopt(self, fitted: FittedDetector) -> Self:
        """Judge by what `gradgeo.detector.fit.fitting` learned of this model, in place of `fit`."""
        self._fitted, self._model_check = fitted, ModelCheck(fitted.model_fingerprint)
        return self

    @public
    def predict(
        self,
        x: ArrayLike | Dataset[Any] | DataLoader[Any],
        *,
        conditional: str | None = None,
        groups: Sequence[int | str] | ArrayLike | None = None,
    ) -> Predictions:
        """Predictions and verdicts for inputs (N, *input) of the shape that `fit` saw.

        A tensor, array, table, Dataset or DataLoader as in `fit`; labels are ignored. Of a table the columns of `fit`
        are taken by name, whatever their order, and others left aside. Rows that cannot be judged are not
        trusted, have NaN scores, and raise one warning with their count; see `Predictions`.

        Deterministic without `noise`. Across batch sizes float32 rounding differs in the last bit: a gradient entry
        within rounding of zero may then flip its sign and move a score (see results/).

        Args:
            x: the inputs.
            conditional: "class" for p-values among the calibration inputs of the same predicted class, so that the
                false-alarm rate holds for each predicted class by itself, not only over all of them. The answer is
                `ConditionalPredictions`, which say with how many inputs each was compared. A class with too few is
                compared with all, with one warning.
            groups: (N,) the group of each input, as in `fit`, for p-values among the calibration inputs of the same
                group; with `conditional` of the same class and group. One that `fit` was not given counts as too small.

        Cost: one forward pass and K backward passes per input.

        Raises: NotFittedError before `fit`; ArgumentError for inputs of another shape or type, or groups amiss.
        """
        return self._predict(x, conditional=conditional, groups=groups)[0]

    @public
    def outlier_score(self, x: ArrayLike | Dataset[Any] | DataLoader[Any]) -> Tensor:
        """Outlier scores (N,), float64, larger = less trustworthy; see `predict`."""
        return self._predict(x)[0].outlier_score

    @public
    def p_value(self, x: ArrayLike | Dataset[Any] | DataLoader[Any]) -> Tensor:
        """Split-conformal p-values (N,), float64: P(p <= alpha | trusted) <= alpha for any alpha and sample size.

        The probability is over the draw of the calibration inputs and of a trusted input exchangeable with them.
        """
        return self._predict(x)[0].p_value

    @public
    def explain(self, x: ArrayLike | Dataset[Any] | DataLoader[Any]) -> list[Explanation]:
        """What each verdict rests on: the evidence by its surprisal, the likely cause, every statistic with its trusted
        range, the CSM, the nearest trusted input.

        Cost: that of `predict`, and all maps where the evidence takes fewer.
        """
        predictions, measured = self._predict(x, keep=("csm", "classes"))
        return self.fitted_.explanations(predictions, measured, self.class_names_) if len(predictions) else []

    @public
    def judge(
        self,
        x: ArrayLike,
        *,
        explain: bool = False,
        conditional: str | None = None,
        groups: Sequence[int | str] | ArrayLike | None = None,
    ) -> Judgement:
        """All that one pass over a batch yields: the logits, the verdicts, the p-value of each evidence.

        Args:
            x: inputs (N, *input), a tensor or array, or a list of texts.
            explain: add an explanation of each row that is not trusted, as `explain` gives it.
            conditional, groups: as in `predict`; the p-values of single evidence stay among all calibration inputs.

        Cost: that of `predict`; where the evidence makes no CSM, explanations take those of the rows that are not
        trusted as well.
        """
        fitted = self.fitted_
        keep = ("logits", "csm", "classes") if explain and "csm" in self.evidence_ else ("logits",)
        batch = inputs.one_batch(self.model, x)
        batch = fitted.noisy(batch, batch_size=self.settings.batch_size)  # once, for explanations too
        predictions, measured = self._predict(batch, drawn=True, keep=keep, conditional=conditional, groups=groups)
        p_values = fitted.calibration.evidence_p_values(fitted.scores(measured))  # (N, M)
        verdicts = (self.model, batch, predictions, measured, self.batch_size, self.class_names_)
        logits = torch.empty(0, fitted.num_classes) if measured.logits is None else measured.logits
        return Judgement(
            predictions,
            logits.masked_fill(predictions.label[:, None] < 0, torch.nan),
            {name: p_values[:, m] for m, name in enumerate(self.evidence_)},
            fitted.flagged_explanations(*verdicts) if explain else {},
        )

    def _predict(
        self, x: inputs.Data, *, keep: tuple[str, ...] = (), drawn: bool = False, **kinds: Any
    ) -> tuple[Predictions, EvidenceFeatures]:
        fitted, settings = self.fitted_, self.settings
        size = settings.batch_size
        batches = fitted.inputs(for_model(self.model, x), batch_size=size, drawn=drawn)
        classifier = self._model_check.classifier(self.model)
        measured = fitted.extractor.measure(classifier, batches, batch_size=size, keep=keep)
        return fitted.predictions(measured, settings.level, **kinds), measured

    def differentiable_score(self, x: Tensor, *, sharpness: float | None = 5.0) -> Tensor:
        """The outlier score (N,) of `x` (N, *input) without noise, as a function to differentiate, for attacks.

        Signs get the slope of a tanh, and ReLUs the derivatives of a softplus that bends over a width of (root mean
        square of their input) / sharpness, so the maps are those of a smoother network and the value is near that of
        `outlier_score`; with `sharpness` None ReLUs stay as they are and the value is the same
        (`gradgeo.geometry.surrogates`). Call it with gradients enabled.

        Cost: one forward and K backward passes with their graph, which stays in memory: pass few inputs.
        """
        fitted, classifier = self.fitted_, self._model_check.classifier(self.model)
        batch = classifier.prepare(x)
        with nullcontext() if sharpness is None else SmoothReLU(sharpness):
            ctx = fitted.extractor.context(DifferentiableJacobian(classifier.optimized(batch), batch))
            features = fitted.extractor.features(ctx)
        return fitted.fusion.fuse(fitted.fusion.scores(features, ctx.forward.predicted.cpu()))

    @public
    def digest(self) -> str:
        """The SHA-256 of all that verdicts depend on besides the model, settings and what `fit` learned; a saved and
        loaded detector has the digest it had."""
        return self.fitted_.digest(self.alpha, self.confidence)

    @public
    def save(self, path: str | PathLike[str], *, notes: dict[str, Any] | None = None) -> None:
        """Write the fitted detector, without the model, to one file: safetensors with JSON metadata.

        `notes` (anything JSON can hold) is stored with it and comes back as `detector.notes`. An interrupted save
        leaves the old file as it was. It is bound to the weights that `fit` saw; others by now bring a warning.
        """
        fitted = self.fitted_
        if notes is not None:
            if not isinstance(notes, dict):
                raise expected("notes", "a dict that JSON can hold", notes)
            self.notes = notes
        self.warn_if_model_changed()
        serialization.write(path, self.settings, fitted, notes=self.notes)

    @classmethod
    @public
    def load(
        cls,
        path: str | PathLike[str] | serialization.Contents,
        model: Model,
        *,
        strict: bool = True,
        sha256: str | None = None,
    ) -> Self:
        """Read a detector written by `save`, for the model it was fitted with.

        Args:
            path: the file, or its contents where `serialization.read` has read it already. Nothing in it is executed;
                a damaged or hostile file raises DetectorFileError.
            model: the classifier. It is compared with the one at `fit` by a hash of its weights and by its logits on
                two synthetic inputs.
            strict: refuse another model; with False warn only (the stated false-alarm rate then no longer holds).
            sha256: what the file's SHA-256 must be, 64 hexadecimal digits, as `gradgeo info` prints it. A file that was
                made to deceive can be consistent in itself: only this, or a signature, tells it from yours.

        Raises: DetectorFileError for a file that is damaged, not the expected one, or of another model.
        """
        contents = path if isinstance(path, serialization.Contents) else serialization.read(path)
        contents.require(sha256)
        detector = cls(model, **contents.arguments()).adopt(contents.restored())
        detector.notes = contents.notes
        detector._model_check.admit(model, detector.fitted_, contents.path, strict=strict)
        return detector

    def warn_if_model_changed(self) -> None:
        """Warn where the model's weights are not those of `fit`, whatever was said before; they are hashed."""
        self._model_check.warn_if_changed(self.model)

    def __repr__(self) -> str:
        state = "not fitted" if self._fitted is None else f"fitted on {self.fit_size_} + {self.calibration_size_}"
        options = {"alpha": self.alpha, "confidence": self.confidence, "noise": self.noise}
        given = ", ".join(f"{name}={value}" for name, value in options.items() if value is not None)
        return f"Detector(evidence=[{', '.join(self._evidence_names)}], {given}, {state})"

    def _repr_html_(self) -> str:
        return html_repr.detector(self, self._evidence_names)

    @property
    def _evidence_names(self) -> tuple[str, ...]:
        """Of the evidence in use, or before `fit` of that asked for."""
        return tuple(e.name for e in resolve(self.evidence)) if self._fitted is None else self.evidence_
