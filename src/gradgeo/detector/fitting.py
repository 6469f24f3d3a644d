"""Fitting in four steps, each a pure function with a frozen result: scan -> split -> extract -> learn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from gradgeo._typing import Array, BoolArray, IntArray
from gradgeo.classifier import fingerprint
from gradgeo.classifier.wrapper import Classifier, Model
from gradgeo.detector import conformal, exchangeability, tables
from gradgeo.detector.calibration import CalibrationSet
from gradgeo.detector.conformal import Level
from gradgeo.detector.evidence import Evidence, resolve
from gradgeo.detector.explanations import named_features
from gradgeo.detector.extraction import EvidenceExtractor, EvidenceFeatures
from gradgeo.detector.fitted import FittedDetector
from gradgeo.detector.fusion import EvidenceFusion
from gradgeo.detector.inputs import Data, batches
from gradgeo.detector.mondrian import CalibrationGroups, group_names
from gradgeo.detector.settings import Settings
from gradgeo.errors import ArgumentError, UnusableInputWarning, expected, warn
from gradgeo.geometry.chunking import map_chunks
from gradgeo.geometry.losses import Loss
from gradgeo.geometry.options import Maps

MINIMUM_PER_FEATURE = 2  # trusted inputs that learning takes, for each feature of the widest evidence
MODEST = 10  # features that evidence counts as where their number is the model's
TYPICAL_MARGIN = 0.75  # the quantile of trusted inputs' margins that becomes the temperature
NEAREST = 256  # trusted inputs whose distances to their boundaries make the radius of the neighbourhood


def fit(
    model: Model, data: Data, labels: Any, settings: Settings, together: Any = None, groups: Any = None
) -> FittedDetector:
    """All four steps, for one detector; see `Detector.fit`."""
    columns = tables.names_of(data) if tables.is_table(data) else None
    data = data if columns is None else tables.numbers_of(data)
    scanned = scan(model, data, labels, batch_size=settings.batch_size)
    scanned.warn_if_unusable()
    if groups is not None:
        groups = group_names(groups, len(scanned.usable))  # before any long work
    trusted, extractor = split(model, scanned, settings, together, groups)
    extractor, measured = extract(model, data, trusted, extractor, batch_size=settings.batch_size)
    fitted = learn(scanned, trusted, extractor, measured, seed=settings.seed)
    known = CalibrationGroups.of(groups, len(scanned.usable), fitted.calibration.rows)
    if known is not None:
        known.warn_of_few(settings.level.least)
    return replace(fitted, groups=known, columns=columns)


@dataclass(frozen=True)
class DataScan:
    """What one forward pass over the data shows of each input (N,), and of all."""

    input_shape: tuple[int, ...]
    """Of one input."""
    num_classes: int
    """C, of the model."""
    first_usable: Tensor
    """(1, *input), or (0, *input) where no input is usable."""
    probability: Array
    """(N,), of the predicted class."""
    margin: Array
    """(N,), the largest less the second logit."""
    usable: BoolArray
    """(N,), whether input and logits are finite."""
    correct: BoolArray
    """(N,), whether the predicted class is the label; all True without labels."""
    copy: BoolArray
    """(N,), whether an earlier input that is usable and correct is the same, entry by entry."""
    model_fingerprint: dict[str, Any]
    """Of the model, by which a later change of it is noticed."""

    @property
    def trusted(self) -> BoolArray:
        """Which inputs a detector may be fitted on (N,)."""
        return self.usable & self.correct & ~self.copy

    @property
    def unusable(self) -> int:
        """How many inputs have NaN or infinite values or logits."""
        return int((~self.usable).sum())

    @property
    def misclassified(self) -> int:
        """How many of the others have another label than is predicted."""
        return int((self.usable & ~self.correct).sum())

    @property
    def copies(self) -> int:
        """How many trusted inputs are left out because they repeat another."""
        return int(self.copy.sum())

    @property
    def exclusion_reason(self) -> str:
        """Why inputs are not trusted, with the counts."""
        copies = f", {self.copies} copies of others" if self.copies else ""
        return f"{self.misclassified} are misclassified, {self.unusable} unusable{copies}"

    def warn_if_unusable(self) -> None:
        """Warn of inputs that are left out, of copies, and of labels that look as if numbered otherwise."""
        if self.unusable:
            warn(
                f"{self.unusable} of {len(self.usable)} inputs have NaN or infinite values or logits and are left out.",
                UnusableInputWarning,
            )
        if self.copies:
            warn(
                f"{self.copies} of {len(self.usable)} inputs are copies of others and count once. Copies on both sides "
                "of the split would void the false-alarm rate, and near-copies, which cannot be seen, still do: give "
                "each input once, before augmentation, and pass together= for frames of one video or images of one "
                "patient."
            )
        if self.misclassified > self.trusted.sum() + self.copies:
            warn(
                f"{self.misclassified} of {len(self.usable)} inputs count as misclassified: are the labels numbered as "
                "the model's classes are?"
            )


def scan(model: Model, data: Data, labels: Any, *, batch_size: int) -> DataScan:
    """Read `data` once, by forward passes alone.

    Raises: ArgumentError for no input, inputs of differing shape, or labels that are none of the classes.
    """
    classifier = Classifier.of(model)
    shape: tuple[int, ...] | None = None
    rows, copy, seen_rows = [], [], set[bytes]()
    for x, y in batches(data, labels, batch_size=batch_size):
        if shape is None:
            shape, first = tuple(x.shape[1:]), x[:0]
        if tuple(x.shape[1:]) != shape:
            raise expected("every input", f"of the same shape {shape}", x)
        seen = classifier.logits(x)
        logits, usable = seen.logits.cpu(), seen.usable.cpu()  # (n, C), (n,)
        if y is not None and len(y) and not (int(y.min()) >= 0 and int(y.max()) < logits.shape[1]):
            raise expected("labels", f"within 0..{logits.shape[1] - 1}", f"{int(y.min())}..{int(y.max())}")
        if not len(first) and bool(usable.any()):
            first = x[usable.to(x.device)][:1]
        correct = torch.ones_like(usable) if y is None else logits.argmax(1) == y
        top = logits.double().topk(2, dim=1).values  # (n, 2)
        rows.append((logits.double().softmax(1).amax(1), top[:, 0] - top[:, 1], usable, correct))
        copy.append(exchangeability.is_copy(x, usable & correct, seen_rows))
        num_classes = logits.shape[1]
    if shape is None:
        raise expected("data", "at least one input", "none")
    identity = fingerprint.of(model, shape)
    probability, margin, usable_rows, correct_rows = (torch.cat(column).numpy() for column in zip(*rows, strict=True))
    return DataScan(
        input_shape=shape,
        num_classes=num_classes,
        first_usable=first,
        probability=probability,
        margin=margin,
        usable=usable_rows,
        correct=correct_rows,
        copy=np.concatenate(copy),
        model_fingerprint=identity,
    )


@dataclass(frozen=True)
class TrustedSet:
    """The T trusted inputs of N, in the order of the data, and which of them are set apart to calibrate on."""

    rows: IntArray
    """(T,) positions in the data, ascending."""
    probability: Array
    """(T,) of the predicted class, by which a second reading is recognised."""
    margins: Array
    """(T,) largest less second logit."""
    calibrates: BoolArray
    """(T,) whether set apart; the others are learned from."""
    total: int
    """N."""
    num_classes: int
    """C, of the model."""
    least: int
    """Inputs that learning takes."""
    level: Level
    """The false-alarm rate that calibration must allow."""

    @property
    def learn_rows(self) -> IntArray:
        """Positions of the inputs to learn from, ascending."""
        return self.rows[~self.calibrates]

    def only(self, has_gradient: BoolArray) -> Self:
        """The set without those inputs (T,) that have no gradient.

        Raises: ArgumentError where too few are left.
        """
        zero_gradient = f"{int((~has_gradient).sum())} have no gradient at all (dead network)"
        _require_enough(int(has_gradient.sum()), self.total, self.least, self.level, zero_gradient)
        part = replace(
            self,
            rows=self.rows[has_gradient],
            probability=self.probability[has_gradient],
            margins=self.margins[has_gradient],
            calibrates=self.calibrates[has_gradient],
        )
        learn, calibrate = int((~part.calibrates).sum()), int(part.calibrates.sum())
        if learn < self.least or calibrate < self.level.least:
            raise ArgumentError(
                f"expected more inputs with gradients, got {learn} to learn from, {calibrate} to calibrate on after "
                "those without one were left out. Give more data or a larger alpha."
            )
        return part


def split(
    model: Model, scanned: DataScan, settings: Settings, together: Any = None, groups: list[str] | None = None
) -> tuple[TrustedSet, EvidenceExtractor]:
    """Which trusted inputs are learned from and which calibrate, and what is measured of them, but for the radius.

    A share of them, drawn by the seed, calibrates, what belongs `together` as a whole or not at all, and where nothing
    is said of that each of `groups` that is too small for a rate of its own; at least
    `MINIMUM_PER_FEATURE` inputs for each feature of the widest evidence are left to learn from.

    Raises: ArgumentError for too few trusted inputs, or evidence that this model does not have.
    """
    loss = _usable_loss(settings.loss, scanned.num_classes)
    evidence = _available(model, settings.evidence, settings.one_class, scanned.first_usable)
    least = MINIMUM_PER_FEATURE * max(len(e.features) or MODEST for e in evidence)
    rows = np.flatnonzero(scanned.trusted)  # (T,)
    _require_enough(len(rows), len(scanned.trusted), least, settings.level, scanned.exclusion_reason)
    size = conformal.calibration_size(
        len(rows), settings.calibration, settings.alpha, at_most=len(rows) - least, confidence=settings.confidence
    )
    units = np.arange(len(rows))
    if together is not None:
        units = exchangeability.unit_numbers(together, len(scanned.trusted))[rows]
    elif groups is not None:
        enough = settings.level.least / settings.calibration
        units = exchangeability.units_of_groups(groups, rows, enough)
    calibrates = exchangeability.set_apart(units, size, least, settings)
    probability, margins = scanned.probability[rows], scanned.margin[rows]
    trusted = TrustedSet(
        rows, probability, margins, calibrates, len(scanned.trusted), scanned.num_classes, least, settings.level
    )
    temperature = settings.temperature
    if isinstance(temperature, str):
        temperature = typical_temperature(margins[~calibrates])
    maps = Maps(Loss(loss, float(temperature), settings.rescale), settings.classes, channel_max=settings.channel_max)
    return trusted, EvidenceExtractor(evidence, maps)


def extract(
    model: Model, data: Data, trusted: TrustedSet, extractor: EvidenceExtractor, *, batch_size: int
) -> tuple[EvidenceExtractor, EvidenceFeatures]:
    """The second reading: the extractor with the radius of this classifier, and what it measures of trusted inputs.

    Raises: ArgumentError for data that is not the same as at the first.
    """
    if extractor.has_neighbourhood:
        # A third, partial reading: the radius must be known before anything is measured around an input.
        near = _inputs_at(data, trusted.learn_rows[:NEAREST], batch_size=batch_size)
        radius = extractor.typical_radius(model, near, trusted.num_classes, batch_size=batch_size)
        extractor = replace(extractor, radius=radius)
    inputs = _inputs_at(data, trusted.rows, total=trusted.total, batch_size=batch_size)
    measured = extractor.measure(model, inputs, batch_size=batch_size)
    # Another batch may round differently; more than that is another input.
    if (
        len(measured.label) != len(trusted.rows)
        or np.mean(np.abs(measured.probability.numpy() - trusted.probability) > 1e-3) > 0.01
    ):
        raise expected(
            "data",
            "the same at both readings",
            "other predictions at the second",
            "Use a data set without random augmentation and a model that draws no random numbers.",
        )
    return extractor, measured


def learn(
    scanned: DataScan, trusted: TrustedSet, extractor: EvidenceExtractor, measured: EvidenceFeatures, *, seed: int
) -> FittedDetector:
    """Fit the one-class models and their fusion on one part of what was `measured` (T,), calibrate on the other.

    Raises: ArgumentError where too few of the inputs have gradients.
    """
    has_gradient = measured.has_gradient.numpy()  # (T,)
    trusted, measured = trusted.only(has_gradient), measured[np.flatnonzero(has_gradient)]
    learned, held_out = (measured[np.flatnonzero(rows)] for rows in (~trusted.calibrates, trusted.calibrates))
    evidence = extractor.evidence
    fusion = EvidenceFusion.fit(
        [e.one_class for e in evidence],
        [e.question for e in evidence],
        learned.features,
        learned.label,
        scanned.num_classes,
        seed=seed,
    )
    scores = fusion.scores(held_out.features, held_out.label)  # (n, M)
    calibration = CalibrationSet(
        outlier_scores=np.sort(fusion.fuse(scores).numpy()),
        rows=trusted.rows[trusted.calibrates],
        labels=held_out.label.numpy(),
        features=named_features(evidence, held_out.features)[1].numpy(),
        scores=scores.numpy(),
    )
    return FittedDetector(
        input_shape=scanned.input_shape,
        num_classes=scanned.num_classes,
        extractor=extractor,
        fusion=fusion,
        calibration=calibration,
        fit_size=len(learned.label),
        misclassified=scanned.misclassified,
        unusable=scanned.unusable,
        model_fingerprint=scanned.model_fingerprint,
    )


def typical_temperature(margins: Array) -> float:
    """The upper quartile of trusted inputs' margins (n,), largest less second logit, and never zero.

    At this temperature hardly any trusted input saturates the softmax, whose gradients would otherwise vanish.
    """
    return max(float(np.quantile(margins, TYPICAL_MARGIN)), 1e-6)


def _require_enough(trusted: int, total: int, least: int, level: Level, reason: str) -> None:
    calibrate = level.least
    if trusted < calibrate + least:
        sure = "" if level.confidence is None else f" with confidence {level.confidence:g}"
        raise ArgumentError(
            f"expected at least {calibrate + least} trusted inputs ({calibrate} to calibrate alpha = "
            f"{level.alpha}{sure}, {least} to learn from), got {trusted} of {total} inputs: {reason}. "
            "Give more data or a larger alpha."
        )


def _usable_loss(loss: str, num_classes: int) -> str:
    if num_classes > 2 or loss == "logit":
        return loss
    warn(
        f"with two classes the {loss} maps of both are opposite for every input (cosine -1); using the "
        'gradients of the raw logits instead (loss="logit").'
    )
    return "logit"


def _available(model: Model, names: str | Sequence[str], one_class: str, x: Tensor) -> tuple[Evidence, ...]:
    """The evidence that this model has, by a pass of one input, or of none, `x`."""
    wanted = resolve(names, one_class)
    (forward,) = map_chunks(model, [x], Maps(), lambda forward, rows: forward, quiet=True)
    missing = [e.name for e in wanted if not e.available(forward)]
    if missing and not isinstance(names, str):
        raise expected(
            "evidence",
            "what this model has",
            ", ".join(missing),
            "Its logits are not made by a linear layer; leave these out, or use a preset.",
        )
    return tuple(e for e in wanted if e.name not in missing)


def _inputs_at(data: Data, rows: IntArray, *, batch_size: int, total: int | None = None) -> Iterator[Tensor]:
    """The inputs at some positions, ascending, batch by batch; read no further than the last one, or to the end where
    their `total` is given, which must then be as many."""
    start = 0
    for x, _ in batches(data, batch_size=batch_size, labelled=False):
        here = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + len(x))] - start
        start += len(x)
        if total is not None and start > total:
            raise expected("data", "the same at both readings", "more inputs at the second")
        if len(here):
            yield x[torch.from_numpy(here).to(x.device)]
        if total is None and start > rows[-1]:
            return
