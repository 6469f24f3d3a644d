"""Fitting in four steps, each a pure function with a frozen result: scan -> split -> extract -> learn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from gradgeo._typing import Array, BoolArray, IntArray
from gradgeo.classifier.isolated_copy import unwrapped
from gradgeo.classifier.wrapper import Model
from gradgeo.detector import tables
from gradgeo.detector.calibration import conformal
from gradgeo.detector.calibration.conformal import Level
from gradgeo.detector.calibration.mondrian import CalibrationGroups, group_names
from gradgeo.detector.evidence import Evidence, had, left_out, resolve
from gradgeo.detector.extraction import EvidenceExtractor, EvidenceFeatures
from gradgeo.detector.fit import exchangeability, suspects
from gradgeo.detector.fit.data_scan import DataScan, scan
from gradgeo.detector.fit.held_out import calibration_set, outlier_scores
from gradgeo.detector.fit.narration import SILENT, FitObserver
from gradgeo.detector.fit.suspects import MeasuredSuspects
from gradgeo.detector.fitted import FittedDetector
from gradgeo.detector.fusion import EvidenceFusion
from gradgeo.detector.inputs import Data, Texts, batches, for_model
from gradgeo.detector.noise import NO_NOISE, Noise
from gradgeo.detector.settings import Settings
from gradgeo.errors import ArgumentError, expected, warn
from gradgeo.geometry.chunking import map_chunks
from gradgeo.geometry.losses import Loss
from gradgeo.geometry.options import Maps

MINIMUM_PER_FEATURE = 2  # trusted inputs that learning takes, for each feature of the widest evidence
MODEST = 10  # features that evidence counts as where their number is the model's
TYPICAL_MARGIN = 0.75  # the quantile of trusted inputs' margins that becomes the temperature
PROBED = 32  # trusted inputs at most that tell how long all will take
LIKELIEST = 20  # classes whose maps are made where nothing is said and there are more
NEAREST = 256  # trusted inputs whose distances to their boundaries make the radius of the neighbourhood


def fit(
    model: Model,
    data: Data,
    labels: Any,
    settings: Settings,
    together: Any = None,
    groups: Any = None,
    observer: FitObserver = SILENT,
) -> FittedDetector:
    """All four steps, for one detector; see `Detector.fit`."""
    data = for_model(model, data)
    columns = tables.names_of(data) if tables.is_table(data) else None
    data = data if columns is None else tables.numbers_of(data)
    # The same draws in every reading, and in every fit with this seed: only those of queries must not be known.
    noise = Noise(float(settings.noise or 0.0), seed=int(settings.seed))
    noise.refuse_texts(isinstance(data, Texts))
    scanned = scan(model, data, labels, batch_size=settings.batch_size, noise=noise, observer=observer)
    observer.scanned(scanned)
    scanned.warn_if_unusable()
    if groups is not None:
        groups = group_names(groups, len(scanned.usable))  # before any long work
    trusted, extractor = split(model, scanned, settings, together, groups)
    mistakes = Mistakes.of(scanned, trusted, settings.seed)
    extractor, measured, made = extract(
        model, data, trusted, extractor, mistakes, settings=settings, noise=noise, observer=observer
    )
    fitted = learn(scanned, trusted, extractor, measured, mistakes, made, settings=settings)
    known = CalibrationGroups.of(groups, len(scanned.usable), fitted.calibration.rows)
    if known is not None:
        known.warn_of_few(settings.level.least)
    return replace(fitted, groups=known, columns=columns, noise=noise.sigma or None)


@dataclass(frozen=True)
class Mistakes:
    """Positions in the data of misclassified inputs."""

    apart: IntArray
    """In the proportion of those that calibrate: what is learned does not depend on them."""
    learned: IntArray
    """Some of the others, which the questions are weighed by."""

    @classmethod
    def of(cls, scanned: DataScan, trusted: "TrustedSet", seed: int) -> Self:
        """Drawn by the seed. Nothing is learned from what belongs together with an input that calibrates, or is the
        same under another label."""
        mistakes: BoolArray = scanned.usable & ~scanned.correct
        apart = exchangeability.mistakes_apart(mistakes, float(trusted.calibrates.mean()), seed)
        calibrate = trusted.rows[trusted.calibrates]
        for belongs in (trusted.units, scanned.content):
            mistakes = mistakes & ~np.isin(belongs, belongs[calibrate])
        return cls(apart, suspects.mistakes_to_learn(np.flatnonzero(mistakes), apart, seed))

    @property
    def rows(self) -> IntArray:
        """All of them."""
        return np.concatenate([self.apart, self.learned])


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
    units: IntArray
    """(N,) what each input of the data belongs to; all of one are on one side."""
    num_classes: int
    """C, of the model."""
    least: int
    """Inputs that learning takes."""
    level: Level
    """The false-alarm rate that calibration must allow."""

    @property
    def total(self) -> int:
        """N."""
        return len(self.units)

    @property
    def learn_rows(self) -> IntArray:
        """Positions of the inputs to learn from, ascending."""
        return self.rows[~self.calibrates]

    def only(self, has_gradient: BoolArray) -> Self:
        """The set without those inputs (T,) that have no gradient.

        Raises: ArgumentError where too few are left.
        """
        zero_gradient = (
            f"{int((~has_gradient).sum())} have no gradient at all (a dead network, or a quantised one: "
            'evidence="lite" needs none)'
        )
        exchangeability.require_enough(int(has_gradient.sum()), self.total, self.least, self.level, zero_gradient)
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
    evidence = _available(model, settings.evidence, settings.one_class, scanned.first_usable)
    loss = _usable_loss(settings.loss, scanned.num_classes, asked=any(e.gradients for e in evidence))
    least = MINIMUM_PER_FEATURE * max(len(e.features) or MODEST for e in evidence)
    rows = np.flatnonzero(scanned.trusted)  # (T,)
    exchangeability.require_enough(len(rows), len(scanned.trusted), least, settings.level, scanned.exclusion_reason)
    size = conformal.calibration_size(
        len(rows), settings.calibration, settings.alpha, at_most=len(rows) - least, confidence=settings.confidence
    )
    units = exchangeability.unit_numbers(scanned.trusted, settings, together, groups)
    calibrates = exchangeability.set_apart(units[rows], size, least, settings)
    probability, margins = scanned.probability[rows], scanned.margin[rows]
    trusted = TrustedSet(rows, probability, margins, calibrates, units, scanned.num_classes, least, settings.level)
    temperature = settings.temperature
    if isinstance(temperature, str):
        temperature = typical_temperature(margins[~calibrates])
    classes = settings.classes
    if isinstance(classes, str):
        classes = LIKELIEST if scanned.num_classes > LIKELIEST else None
    maps = Maps(Loss(loss, float(temperature), settings.rescale), classes, channel_max=settings.channel_max)
    return trusted, EvidenceExtractor(evidence, maps)


def extract(
    model: Model,
    data: Data,
    trusted: TrustedSet,
    extractor: EvidenceExtractor,
    mistakes: Mistakes,
    *,
    settings: Settings,
    noise: Noise = NO_NOISE,
    observer: FitObserver = SILENT,
) -> tuple[EvidenceExtractor, EvidenceFeatures, MeasuredSuspects | None]:
    """The second reading: the extractor with the radius of this classifier, what it measures of trusted inputs and,
    behind these, of `mistakes`, and what it measures of outliers made from some of those that are learned from.

    Raises: ArgumentError for data that is not the same as at the first.
    """
    batch_size = settings.batch_size
    near_rows = trusted.learn_rows[:NEAREST] if extractor.has_neighbourhood else trusted.learn_rows[:0]
    sources = trusted.learn_rows[:0]
    if len({e.question for e in extractor.evidence}) > 1:
        sources = suspects.sources(trusted.learn_rows, settings.seed)
    if observer.estimates:
        few = torch.cat([*_inputs_at(data, trusted.learn_rows[:PROBED], batch_size=batch_size, noise=noise)])
        radius_of_one, one = extractor.seconds(model, few, trusted.num_classes)
        count = len(trusted.rows) + len(mistakes.rows) + len(sources) * len(suspects.KINDS)
        observer.estimated(one, one * count + radius_of_one * len(near_rows))
    # A third, partial reading: the radius must be known before anything is measured around an input.
    if extractor.has_neighbourhood:
        near = _inputs_at(data, near_rows, batch_size=batch_size, noise=noise)
        with observer.stage("distances to boundaries", len(near_rows)) as advance:
            classes = trusted.num_classes
            radius = extractor.typical_radius(model, near, classes, batch_size=batch_size, advance=advance)
        extractor = replace(extractor, radius=radius)
    rows = np.union1d(trusted.rows, mistakes.rows)
    inputs = _inputs_at(data, rows, total=trusted.total, batch_size=batch_size, noise=noise)
    with observer.stage("measuring", len(rows)) as advance:
        measured = extractor.measure(model, inputs, batch_size=batch_size, advance=advance)
    complete = len(measured.label) == len(rows)
    if complete:
        measured = measured[np.searchsorted(rows, np.concatenate([trusted.rows, mistakes.rows])).astype(np.int64)]
    # Another batch may round differently; more than that is another input.
    if (
        not complete
        or np.mean(np.abs(measured.probability.numpy()[: len(trusted.rows)] - trusted.probability) > 1e-3) > 0.01
    ):
        raise expected(
            "data",
            "the same at both readings",
            "other predictions at the second",
            "Use a data set without random augmentation and a model that draws no random numbers.",
        )
    x = _inputs_at(data, sources, batch_size=batch_size, noise=noise) if len(sources) else ()
    made = suspects.measure(model, x, sources, extractor, batch_size=batch_size, seed=settings.seed, observer=observer)
    return extractor, measured, made


def learn(
    scanned: DataScan,
    trusted: TrustedSet,
    extractor: EvidenceExtractor,
    measured: EvidenceFeatures,
    mistakes: Mistakes,
    made: MeasuredSuspects | None,
    *,
    settings: Settings,
) -> FittedDetector:
    """Fit the one-class models and their fusion on one part of what was `measured` of trusted inputs (T,), calibrate on
    the other.

    Raises: ArgumentError where too few of the inputs have gradients.
    """
    count, apart = len(trusted.rows), len(mistakes.apart)
    set_apart, wrong = (
        measured[np.arange(count, count + apart)],
        measured[np.arange(count + apart, len(measured.label))],
    )
    measured = measured[np.arange(count)]
    has_gradient = measured.has_gradient.numpy()  # (T,)
    trusted, measured = trusted.only(has_gradient), measured[np.flatnonzero(has_gradient)]
    learned, held_out = (measured[np.flatnonzero(rows)] for rows in (~trusted.calibrates, trusted.calibrates))
    evidence = extractor.evidence
    fusion, weighed = EvidenceFusion.fit(
        [e.one_class for e in evidence],
        [e.question for e in evidence],
        learned.features,
        learned.label,
        scanned.num_classes,
        seed=settings.seed,
        made=None if made is None else made.among(trusted.learn_rows, wrong),
        emphasis=settings.emphasis,
    )
    calibration = calibration_set(extractor, fusion, held_out, trusted.rows[trusted.calibrates])
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
        mistakes=outlier_scores(fusion, set_apart),
        record=scanned.record,
        weighed=None if weighed is None else weighed.facts(),
    )


def typical_temperature(margins: Array) -> float:
    """The upper quartile of trusted inputs' margins (n,), largest less second logit, and never zero.

    At this temperature hardly any trusted input saturates the softmax, whose gradients would otherwise vanish.
    """
    return max(float(np.quantile(margins, TYPICAL_MARGIN)), 1e-6)


def _usable_loss(loss: str, num_classes: int, *, asked: bool) -> str:
    """The loss whose maps differ from class to class; said only where its gradients are asked for."""
    if num_classes > 2 or loss == "logit":
        return loss
    if asked:
        warn(
            f"with two classes the {loss} maps of both are opposite for every input (cosine -1); using the "
            'gradients of the raw logits instead (loss="logit").'
        )
    return "logit"


def _available(model: Model, names: str | Sequence[str], one_class: str, x: Tensor) -> tuple[Evidence, ...]:
    """The evidence that this model has, by a pass of one input, or of none, `x`."""
    wanted, optional = resolve(names, one_class), left_out(names)
    inner = unwrapped(model) if isinstance(model, torch.nn.Module) else model
    unfit: frozenset[str] = getattr(inner, "unfit_evidence", frozenset())
    if asked := sorted((unfit - optional) & {e.name for e in wanted}):
        what = "what means something for texts"
        raise expected("evidence", what, ", ".join(asked), "Leave these out, or use a preset.")
    wanted = tuple(e for e in wanted if e.name not in unfit)
    gradients = any(e.gradients for e in wanted)
    (forward,) = map_chunks(
        model, [x], Maps(), lambda forward, rows: forward, layers=True, gradients=gradients, quiet=True
    )
    missing = [e.name for e in wanted if not e.available(forward)]
    if asked := [name for name in missing if name not in optional]:
        why = "Some need a linear layer that makes the logits, some a picture or signal, some a table's row"
        raise expected("evidence", "what this model has", ", ".join(asked), f"{why}: leave these out, or use a preset.")
    return had(wanted, optional, forward)


def _inputs_at(
    data: Data, rows: IntArray, *, batch_size: int, noise: Noise, total: int | None = None
) -> Iterator[Tensor]:
    """The inputs at some positions, ascending, batch by batch, with the `noise` of a whole reading; read no further
    than the last one, or to the end where their `total` is given, which must then be as many."""
    start, noisy = 0, noise.reading()
    for x, _ in batches(data, batch_size=batch_size, labelled=False):
        x = noisy(x)
        here = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + len(x))] - start
        start += len(x)
        if total is not None and start > total:
            raise expected("data", "the same at both readings", "more inputs at the second")
        if len(here):
            yield x[torch.from_numpy(here).to(x.device)]
        if total is None and start > rows[-1]:
            return
