"""The detector: fitted once on trusted inputs, it says of each prediction whether to trust it."""

import copy
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import fields, replace
from numbers import Integral, Real
from os import PathLike
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradgeo._typing import Array
from gradgeo.classifier import fingerprint
from gradgeo.classifier.wrapper import Classifier, Model
from gradgeo.detector import conformal
from gradgeo.detector import html_repr as notebook
from gradgeo.detector import serialization as detector_file
from gradgeo.detector.evidence import Evidence, resolve
from gradgeo.detector.explanations import References, explanations, named
from gradgeo.detector.extraction import EvidenceExtractor, EvidenceFeatures
from gradgeo.detector.fitting import Split, measure_trusted
from gradgeo.detector.fusion import EvidenceFusion, TailSurprisal
from gradgeo.detector.inputs import Data, batches
from gradgeo.detector.one_class import KINDS, OneClass
from gradgeo.detector.results import Explanation, Judgement, Predictions
from gradgeo.detector.survey import DataScan
from gradgeo.errors import (
    DetectorFileError,
    NotFittedError,
    choice,
    expected,
    public,
    warn,
)
from gradgeo.geometry.autograd import DifferentiableJacobian
from gradgeo.geometry.chunking import map_chunks
from gradgeo.geometry.losses import LOSSES, Loss
from gradgeo.geometry.options import Classes, Maps
from gradgeo.geometry.surrogates import SmoothReLU

_SETTINGS = ("evidence", "alpha", "classes", "loss", "temperature", "calibration", "seed", "batch_size")
_FITTED = (
    *("input_shape", "num_classes", "loss", "temperature", "radius"),
    *("fit_size", "calibration_size", "misclassified", "unusable"),
)

MINIMUM_PER_FEATURE = 2  # trusted inputs that learning takes, for each feature of the widest evidence
MODEST = 10  # features that evidence counts as where their number is the model's
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
        evidence: what is measured: a preset or a list of names from `gradgeo.detector.evidence.EVIDENCE`. "full": all of it;
            "fast": what takes at most 3 backward passes; "paper": the ten statistics of the CSM. A preset leaves out
            what the model does not have, penultimate features for instance.
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

    Learned by `fit`: `input_shape_`, `num_classes_`, `loss_`, `temperature_`, `radius_` (of the neighbourhood, in input
    units), `fit_size_`, `calibration_size_`, `misclassified_` and `unusable_` (inputs that were left out).

    Source: Schwinn et al., UAI 2021, sections 3 and 4; p-values: see `gradgeo.detector.conformal`. Deviations: the evidence
    beside the ten statistics (`gradgeo.detector.evidence`) and how it is joined (`gradgeo.detector.fusion`); the temperature, which the
    paper leaves at 1; the one-class models (`gradgeo.detector.one_class`).
    """

    @public
    def __init__(
        self,
        model: Model,
        *,
        evidence: str | list[str] | tuple[str, ...] = "full",
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
            data: a tensor or array (N, *input), or a Dataset or DataLoader of x or (x, label, ...). Read twice and in
                part a third time, so it must give the same inputs in the same order; a shuffling loader is read in
                order.
            labels: (N,) true classes for a tensor or array. Where there are labels, only correctly classified inputs
                count as trusted.

        Cost: two forward passes per input, and what its evidence costs.

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
        survey = DataScan.of(self.model, data, labels, batch_size=self.batch_size)
        survey.told()
        split = self._prepare(survey)
        found = measure_trusted(self.model, data, survey, split, self._instrument, batch_size=self.batch_size)
        self._learn(survey, split, *found)

    def _prepare(self, survey: DataScan) -> Split:
        """Decide what is measured, but for the radius, and which inputs are learned from."""
        self.input_shape_ = survey.input_shape
        self.num_classes_ = survey.num_classes
        self.unusable_, self.misclassified_ = survey.unusable, survey.misclassified
        self.loss_ = self._loss_for(self.num_classes_)
        self.classes_ = self.classes
        evidence = self._available(survey.first_usable)
        learn = MINIMUM_PER_FEATURE * max(len(e.features) or MODEST for e in evidence)
        split = Split.of(survey, learn, calibration=self.calibration, alpha=self.alpha, seed=self.seed)
        self.temperature_ = self._temperature_for(survey.margin[split.fit])
        self._instrument = EvidenceExtractor(evidence, Maps(Loss(self.loss_, self.temperature_), self.classes_))
        return split

    def _learn(self, survey: DataScan, split: Split, instrument: EvidenceExtractor, measured: EvidenceFeatures) -> None:
        """Learn from what `instrument` measured of the trusted inputs, and calibrate."""
        self._instrument, self.radius_ = instrument, instrument.radius
        split = split.alive(survey, measured)
        learnt, kept = split.parts(survey, measured)
        evidence = instrument.evidence
        self._joint = EvidenceFusion.fit(
            [e.one_class for e in evidence],
            [e.question for e in evidence],
            learnt.features,
            learnt.label,
            self.num_classes_,
            seed=self.seed,
        )
        scores = self._member_scores(kept)
        self._reference = References(split.calibration, kept.label, named(evidence, kept.features)[1], scores.numpy())
        self._calibration = np.sort(self._joint.join(scores).numpy())
        self.fit_size_, self.calibration_size_ = len(split.fit), len(split.calibration)

    def _available(self, x: Tensor) -> tuple[Evidence, ...]:
        """The evidence that this model has, told by a pass of one input (or none)."""
        wanted = resolve(self.evidence)
        forwards = map_chunks(self.model, [x], Maps(), lambda forward, rows: forward, quiet=True)
        missing = [e.name for e in wanted if not e.available(forwards[0])]
        if missing and not isinstance(self.evidence, str):
            raise expected(
                "evidence",
                "what this model has",
                ", ".join(missing),
                "Its logits are not made by a linear layer; leave these out, or use a preset.",
            )
        return tuple(e for e in wanted if e.name not in missing)

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

    def _measure(self, inputs: Iterable[Tensor], *, keep: tuple[str, ...] = ()) -> EvidenceFeatures:
        return self._instrument.measure(self.model, inputs, batch_size=self.batch_size, keep=keep)

    def _inputs(self, x: Data) -> Iterator[Tensor]:
        """The batches of `x`, each of the shape `fit` saw."""
        for batch, _ in batches(x, batch_size=self.batch_size, labelled=False):
            if tuple(batch.shape[1:]) != self.input_shape_:
                shape = ", ".join(map(str, self.input_shape_))
                raise expected("x", f"of shape (N, {shape}) as in fit", batch)
            yield batch

    def _judge(self, x: Data, *, keep: tuple[str, ...] = ()) -> tuple[Predictions, EvidenceFeatures]:
        self._require_fit()
        self._check()
        measured = self._measure(self._inputs(x), keep=keep)
        return self._verdicts(measured), measured

    def _verdicts(self, measured: EvidenceFeatures) -> Predictions:
        score = self._joint.join(self._member_scores(measured)).numpy()
        p = conformal.p_values(self._calibration, score)
        if conformal.needed(self.alpha) > self.calibration_size_:
            warn(
                f"no input can be flagged at alpha = {self.alpha} with {self.calibration_size_} calibration inputs: "
                f"p-values start at {1 / (self.calibration_size_ + 1):.4f}. Fit again with this alpha."
            )
        columns = (measured.label, measured.probability, score, p, np.greater(p, self.alpha))
        return Predictions(*map(torch.from_numpy, columns))

    def differentiable_score(self, x: Tensor, *, sharpness: float | None = 5.0) -> Tensor:
        """The outlier score (N,) as a function of `x` (N, *input) that can be differentiated, for attacks.

        Signs get the slope of a tanh, and ReLUs the derivatives of a softplus that bends over a width of (root mean
        square of their input) / sharpness, so the maps are those of a smoother network and the value is near that of
        `outlier_score`; with `sharpness` None ReLUs stay as they are and the value is the same
        (`gradgeo.geometry.surrogates`). Call it with gradients enabled.

        Cost: one forward and K backward passes with their graph, which stays in memory: pass few inputs.
        """
        self._require_fit()
        classifier = Classifier.of(self.model)
        batch = classifier.prepare(x)
        with nullcontext() if sharpness is None else SmoothReLU(sharpness):
            seen = self._instrument.observe(DifferentiableJacobian(classifier.optimized(batch), batch))
            features = self._instrument.features(seen)
        return self._joint.join(self._joint.scores(features, seen.forward.predicted.cpu()))

    def _member_scores(self, measured: EvidenceFeatures) -> Tensor:
        """The score of each evidence (N, M)."""
        if not len(measured.label):
            return torch.empty(0, len(self._instrument.evidence), dtype=torch.float64)
        features = [torch.from_numpy(table) for table in measured.features]
        return self._joint.scores(features, torch.from_numpy(measured.label))

    def _require_fit(self) -> None:
        if not hasattr(self, "_joint"):
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
        """What each verdict rests on: which evidence spoke and how loudly, the likely cause, every statistic beside its
        trusted range, the CSM, the nearest trusted input.

        Cost: that of `predict`, and all maps where the evidence takes fewer.
        """
        predictions, measured = self._judge(x, keep=("csm", "classes"))
        return self._explanations(predictions, measured) if len(predictions) else []

    @public
    def judge(self, x: Tensor | NDArray[Any], *, explain: bool = False) -> Judgement:
        """All that one pass tells of a batch: the logits, the verdicts, the p-value of each evidence.

        Args:
            x: inputs (N, *input), a tensor or array.
            explain: add an explanation of each row that is not trusted, as `explain` gives it.

        Cost: that of `predict`; explanations take the CSMs of the rows that are not trusted besides, where the evidence
        makes none.
        """
        if not isinstance(x, Tensor | np.ndarray):
            raise expected("x", "a tensor or array (N, *input)", x, "For a data set use predict, or judge its batches.")
        csm_is_free = any(e.name == "csm" for e in self._evidence)
        keep = ("logits", "csm", "classes") if explain and csm_is_free else ("logits",)
        predictions, measured = self._judge(x, keep=keep)
        p_values = self._reference.p_values(self._member_scores(measured))
        explained: dict[int, Explanation] = {}
        rows = np.flatnonzero(~predictions.trusted.numpy())
        if explain and len(rows):
            doubted = measured[rows]
            if not csm_is_free:
                again = EvidenceExtractor((), self._instrument.maps).measure(
                    self.model, self._inputs(x[rows]), batch_size=self.batch_size, keep=("csm", "classes"), quiet=True
                )
                doubted = replace(doubted, csm=again.csm, classes=again.classes)
            explained = dict(zip(rows.tolist(), self._explanations(predictions[rows], doubted), strict=True))
        logits = torch.empty(0, self.num_classes_) if measured.logits is None else measured.logits  # of no input, none
        return Judgement(
            predictions,
            logits.masked_fill(predictions.label[:, None] < 0, torch.nan),
            {e.name: torch.from_numpy(p_values[:, m]) for m, e in enumerate(self._evidence)},
            explained,
        )

    @property
    def evidence_(self) -> tuple[str, ...]:
        """The names of the evidence in use: what this model has of `evidence`."""
        return tuple(e.name for e in self._evidence)

    @property
    def calibration_scores_(self) -> Array:
        """The outlier scores of the calibration inputs, in rising order: what p-values compare with."""
        self._require_fit()
        return self._calibration.copy()

    @public
    def digest(self) -> str:
        """The SHA-256 of all that verdicts depend on beside the model: settings and what `fit` learned.

        A saved and loaded detector has the digest it had; notes and `batch_size` have no part in it.
        """
        names = ("alpha", "classes_", "loss_", "temperature_", "radius_", "input_shape_", "evidence_")
        return fingerprint.content_hash(
            {n: getattr(self, n) for n in names}
            | {"joint": self._joint, "calibration": self._calibration, "reference": self._reference}
        )

    @property
    def _evidence(self) -> tuple[Evidence, ...]:
        self._require_fit()
        return self._instrument.evidence

    def _explanations(self, predictions: Predictions, measured: EvidenceFeatures) -> list[Explanation]:
        scores = self._member_scores(measured)
        return explanations(predictions, measured, scores, self._evidence, self._joint, self._reference)

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
        settings["evidence"] = list(self.evidence_)
        settings["classes"] = self.classes_.tolist() if isinstance(self.classes_, Tensor) else self.classes_
        fitted = {name: getattr(self, f"{name}_") for name in _FITTED}
        fitted["one_class"] = [_kind_name(member) for member in self._joint.members]
        fitted["questions"] = list(self._joint.questions)
        contents = detector_file.Contents(
            settings=settings,
            fitted=fitted,
            fingerprint=fingerprint.of(self.model, self.input_shape_),
            notes=self.notes,
            arrays={
                **vars(self._reference),
                **vars(self._joint.surprise),
                **{f"question_{name}": array for name, array in vars(self._joint.together).items()},
                "calibration": self._calibration,
                **{
                    f"{e.name}/{name}": array
                    for e, member in zip(self._instrument.evidence, self._joint.members, strict=True)
                    for name, array in vars(member).items()
                },
            },
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
        kinds = [KINDS[name] for name in contents.fitted.pop("one_class")]
        questions = tuple(contents.fitted.pop("questions"))
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
        detector.classes_, evidence = detector.classes, resolve(detector.evidence)
        if [e.one_class for e in evidence] != kinds:
            raise DetectorFileError(f"{path} holds evidence of another kind than this version's. Fit again.")
        maps = Maps(Loss(detector.loss_, detector.temperature_), detector.classes_)
        detector._instrument = EvidenceExtractor(evidence, maps, detector.radius_)
        members = tuple(
            kind(**{name: arrays[f"{e.name}/{name}"] for name in kind.LAYOUT})
            for e, kind in zip(evidence, kinds, strict=True)
        )
        alone, together = (
            TailSurprisal(**{f.name: arrays[prefix + f.name] for f in fields(TailSurprisal)})
            for prefix in ("", "question_")
        )
        detector._joint = EvidenceFusion(members, questions, alone, together)
        detector._reference = References(**{f.name: arrays[f.name] for f in fields(References)})
        detector._calibration = arrays["calibration"]
        return detector

    def __repr__(self) -> str:
        state = f"fitted on {self.fit_size_} + {self.calibration_size_}" if hasattr(self, "fit_size_") else "not fitted"
        return f"Detector(evidence=[{', '.join(self._names)}], alpha={self.alpha}, {state})"

    def _repr_html_(self) -> str:
        return notebook.detector(self, self._names)

    @property
    def _names(self) -> list[str]:
        """Of the evidence in use, or before `fit` of that asked for."""
        return list(self.evidence_) if hasattr(self, "_instrument") else [e.name for e in resolve(self.evidence)]


def _kind_name(member: OneClass) -> str:
    """The name of its kind in a detector file."""
    for name, kind in KINDS.items():
        if type(member) is kind:
            return name
    raise DetectorFileError(
        f"a one-class model of type {type(member).__name__} cannot be saved: it is not among gradgeo.detector.one_class.KINDS."
    )


def _plain(value: Any) -> Any:
    """A NumPy number as Python's."""
    return value.item() if isinstance(value, np.generic) else value
