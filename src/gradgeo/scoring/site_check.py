"""Whether the false-alarm rate that a detector states holds on the data of one site: an exact test, with its power."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import special
from torch.utils.data import DataLoader, Dataset

from gradgeo._typing import Array, IntArray
from gradgeo.detector.calibration.conformal import FalseAlarmRate, Level, exact_interval
from gradgeo.detector.calibration.mondrian import Kinds, group_names
from gradgeo.detector.detector import Detector
from gradgeo.detector.file.serialization import class_names
from gradgeo.detector.fit.reading import LabelledReading
from gradgeo.detector.fitted import FittedDetector
from gradgeo.detector.inputs import for_model
from gradgeo.errors import expected, public
from gradgeo.metrics import holm
from gradgeo.scoring.decisions import Decisions

LEVEL = 0.05
"""Probability with which a site where all rates hold is said to exceed one."""

POWER = 0.8
"""Probability with which `smallest_seen` would have been seen."""

TIMES = 3
"""How much larger than the stated rate one must be that a check has to see, where nothing else is asked for."""

Kind = Literal["all", "class", "group"]
Compared = Literal["own", "all", "unseen"]
Verdict = Literal["not exceeded", "exceeded", "too few inputs"]


@dataclass(frozen=True)
class RateCheck:
    """One stated rate, and what it is here."""

    by: Kind
    name: str
    stated: FalseAlarmRate
    """With the calibration inputs that the p-values of these inputs compare with."""
    compared: Compared
    """Those of the same class or group; or all, for these are too few, or of a group that `fit` was not given."""
    judged: int
    flagged: int
    low: float
    """The rate here lies between this and `high`, with 95 % confidence."""
    high: float
    p: float | None
    """The probability of so many false alarms, or more, where the stated rate holds; corrected for all rates tested
    (Holm 1979). None where inputs are compared with all: no rate is stated for their class or group by itself."""
    smallest_seen: float | None
    """The smallest rate here that such a test would have found to exceed the stated one with probability `POWER`; None
    where not even flagging every input would have shown it."""

    @property
    def share(self) -> float:
        """Flagged, of the judged; NaN of none."""
        return self.flagged / self.judged if self.judged else math.nan


@dataclass(frozen=True)
class SiteCheck:
    """The answer of `check`."""

    detector: str
    """`Detector.digest()`."""
    alpha: float
    level: float
    must_see: float
    """The rate of all inputs that must be seen for a verdict."""
    inputs: int
    """Of the data."""
    labelled: bool
    """Whether the data has labels, so that only right predictions count; without them all inputs are taken to be
    trustworthy."""
    misclassified: int
    unusable: int
    copies: int
    """Inputs that are left out because they repeat another."""
    rates: tuple[RateCheck, ...]
    """That of all inputs first, then those of predicted classes and of groups."""
    undecided: int = 0
    """Of those that a person was shown, where decisions take the place of labels."""

    @property
    def exceeded(self) -> tuple[RateCheck, ...]:
        """The rates that do not hold here."""
        return tuple(rate for rate in self.rates if rate.p is not None and rate.p <= self.level)

    @property
    def verdict(self) -> Verdict:
        """Whether a rate is exceeded; else whether there are enough inputs for `must_see` to have shown."""
        seen = self.rates[0].smallest_seen
        if self.exceeded:
            return "exceeded"
        return "too few inputs" if seen is None or seen > self.must_see else "not exceeded"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        rates = [{**asdict(rate), "stated": rate.stated.as_dict()} for rate in self.rates]
        return {"verdict": self.verdict, **asdict(self), "power": POWER, "rates": rates}

    def __str__(self) -> str:
        return f"{self.verdict}: {in_words(self.rates[0])}"


def in_words(rate: RateCheck) -> str:
    """What is found of one rate."""
    if rate.p is None:
        return f"{rate.flagged} of {rate.judged} flagged; no rate is stated for these by themselves"
    share = "" if not rate.judged else f" ({100 * rate.share:.1f} %, [{100 * rate.low:.1f}, {100 * rate.high:.1f}])"
    seen = "no excess" if rate.smallest_seen is None else f"{100 * rate.smallest_seen:.1f} % or more"
    return (
        f"{rate.flagged} of {rate.judged} flagged{share}, stated {100 * rate.stated.expected:.1f} %, p {rate.p:.2g}; "
        f"would have seen {seen}"
    )


@public
def check(
    detector: Detector,
    data: ArrayLike | Dataset[Any] | DataLoader[Any],
    labels: ArrayLike | None = None,
    *,
    groups: Any = None,
    level: float = LEVEL,
    must_see: float | None = None,
) -> SiteCheck:
    """Test whether the stated false-alarm rates hold on the data of a site: of all, of each class and of each group.

    Example:
        >>> import gradgeo
        >>> from gradgeo.data import digits
        >>> model, parts = digits.digits_classifier(), digits.split()
        >>> detector = gradgeo.Detector(model, evidence="lite").fit(*parts["fit"])
        >>> check(detector, *parts["test"]).verdict
        'not exceeded'
        >>> x, y = parts["test"]
        >>> check(detector, 0.7 * x, y).verdict  # another exposure
        'exceeded'

    Args:
        detector: fitted.
        data: inputs as in `Detector.fit`, none of which it was fitted on.
        labels: (N,) true classes, where the data does not bring them. Where there are labels the rate is that of right
            predictions; without, all inputs are taken to be trustworthy, and mistakes count as false alarms.
        groups: (N,) as in `Detector.predict`, to test the rate of each group too. Where `fit` was given none, or not
            this one, its inputs are compared with all calibration inputs.
        level: the probability that any rate is said to be exceeded where all hold.
        must_see: a rate of all inputs that the test must be able to see, else its verdict is "too few inputs"; None for
            thrice the stated one.

    The number of false alarms among inputs that are exchangeable with those of calibration is beta-binomial, whatever
    the scores (`FalseAlarmRate.tail`): the test is exact, at any number of inputs, and corrected for the number of
    rates (Holm 1979). Each class and group is judged among its own calibration inputs, as `Detector.predict` does when
    it is told to, for only so does the detector state a rate for it: one with too few of them is counted, not tested.
    That nothing is found is no proof: `smallest_seen` says what would have been found.

    Cost: that of `Detector.predict`, and a second or two for 10,000 inputs.

    Raises: ArgumentError for inputs of another shape, labels that are none of the classes, or another number of groups.
    """
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
        raise expected("level", "a number between 0 and 1", level)
    if must_see is not None and (isinstance(must_see, bool) or not 0 < must_see <= 1):
        raise expected("must_see", "None or a number between 0 and 1", must_see)
    settings, fitted = detector.settings, detector.fitted_
    read = LabelledReading(fitted, for_model(detector.model, data), labels, batch_size=settings.batch_size)
    measured = fitted.extractor.measure(detector.model, read, batch_size=settings.batch_size)
    label, total = measured.label.numpy(), len(measured.label)
    scores = fitted.fusion.fuse(fitted.scores(measured)).numpy()  # (N,)
    if not total:
        raise expected("data", "at least one input", "none")
    names = None if groups is None else np.array(group_names(groups, total))  # (N,)
    usable = ~np.isnan(scores)
    right = read.right(label, usable)
    counted = usable & right & ~read.copies
    counts = _rates(detector, label[counted], scores[counted], None if names is None else names[counted].tolist())
    return SiteCheck(
        detector=detector.digest(),
        alpha=settings.level.alpha,
        level=float(level),
        must_see=must_see or _must_see(detector),
        inputs=total,
        labelled=read.labelled,
        misclassified=int((usable & ~right).sum()),
        unusable=int((~usable).sum()),
        copies=int((usable & right & read.copies).sum()),
        rates=_tested(counts, level),
    )


@public
def check_decisions(
    detector: Detector, decisions: Decisions, *, level: float = LEVEL, must_see: float | None = None
) -> SiteCheck:
    """The same of all inputs of a report, by what a person decided of some: each counts by the inverse of the
    probability with which it was drawn. Classes and groups are not told apart.

    Raises: DataError for decisions on the verdicts of another detector, or on flagged or trusted inputs alone.
    """
    decisions.require(detector.digest())
    rate, sampling = detector.false_alarm_rate_, decisions.sampling
    (low_flagged, high_flagged), (low_trusted, high_trusted) = (decisions.right(each, 0.0125) for each in (False, True))
    flagged, trusted = (decisions.estimated(each) for each in (False, True))
    judged = flagged + trusted
    whole = RateCheck(
        by="all",
        name="all",
        stated=rate,
        compared="own",
        judged=judged,
        flagged=flagged,
        low=low_flagged / max(1, low_flagged + high_trusted),
        high=high_flagged / max(1, high_flagged + low_trusted),
        p=decisions.chance(rate),
        smallest_seen=decisions.smallest_seen(rate, level),
    )
    return SiteCheck(
        detector=decisions.detector,
        alpha=detector.alpha,
        level=float(level),
        must_see=must_see or _must_see(detector),
        inputs=sampling.flagged.population + sampling.trusted.population,
        labelled=True,
        misclassified=sampling.flagged.population + sampling.trusted.population - judged,
        unusable=0,
        copies=0,
        rates=(whole,),
        undecided=decisions.undecided,
    )


def _must_see(detector: Detector) -> float:
    return min(1.0, TIMES * detector.false_alarm_rate_.expected)


@dataclass(frozen=True)
class _Count:
    by: Kind
    name: str
    stated: FalseAlarmRate
    compared: Compared
    judged: int
    flagged: int


def _rates(detector: Detector, label: IntArray, scores: Array, groups: Sequence[str] | None) -> Iterator[_Count]:
    """What is flagged of the inputs that count (M,): of all, of each predicted class, of each group."""
    fitted, level = detector.fitted_, detector.settings.level
    n, size = fitted.calibration_size, len(scores)
    yield from _counts(
        "all", Kinds(np.zeros(n, np.int64), np.zeros(size, np.int64), ("all",) * size), fitted, level, scores
    )
    classes = class_names(detector.notes, fitted.num_classes)
    of_class = Kinds(fitted.calibration.labels, label, tuple(classes[c] for c in label.tolist()))
    yield from _counts("class", of_class, fitted, level, scores)
    if groups is not None:
        known = np.zeros(n, np.int64) if fitted.groups is None else fitted.groups.of_row
        asked = np.full(size, -1, np.int64) if fitted.groups is None else fitted.groups.numbers(groups)
        yield from _counts("group", Kinds(known, asked, tuple(groups)), fitted, level, scores)


def _counts(by: Kind, kinds: Kinds, fitted: FittedDetector, level: Level, scores: Array) -> Iterator[_Count]:
    """Of each kind that occurs, and of all where nothing does."""
    pool = fitted.calibration.outlier_scores
    p, compared = kinds.p_values(fitted.calibration_scores, pool, scores, level.least)
    bounds = {size: level.threshold(size) for size in np.unique(compared).tolist()}
    flagged = p <= np.array([bounds[size] for size in compared.tolist()])
    names, first, which = np.unique(np.array(kinds.names), return_index=True, return_inverse=True)
    judged, alarms = np.bincount(which, minlength=len(names)), np.bincount(which[flagged], minlength=len(names))
    for name, row, count, alarm in zip(names.tolist(), first.tolist(), judged.tolist(), alarms.tolist(), strict=True):
        asked = int(kinds.asked[row])
        own = int((kinds.calibration == asked).sum()) >= level.least
        compares: Compared = "unseen" if asked < 0 else "own" if own or by == "all" else "all"
        yield _Count(by, name, level.rate(int(compared[row])), compares, count, alarm)
    if by == "all" and not len(scores):
        yield _Count(by, "all", level.rate(len(pool)), "own", 0, 0)


def _tested(counts: Iterable[_Count], level: float) -> tuple[RateCheck, ...]:
    """The counts with intervals, corrected p-values, and what would have been seen."""
    counts = tuple(counts)
    lows, highs = exact_interval([c.flagged for c in counts], [c.judged for c in counts])
    stated = [c for c in counts if c.compared == "own"]
    p = dict(zip(stated, holm([c.stated.chance_of_more(c.flagged, c.judged) for c in stated]), strict=True))
    each = level / len(stated)  # as strict as Holm's correction is of any rate
    seen = {c: _smallest_seen(c.judged, c.stated.least_excess(c.judged, each)) for c in stated}
    return tuple(
        RateCheck(c.by, c.name, c.stated, c.compared, c.judged, c.flagged, low, high, p.get(c), seen.get(c))
        for c, low, high in zip(counts, lows.tolist(), highs.tolist(), strict=True)
    )


def _smallest_seen(judged: int, least: int) -> float | None:
    """The rate at which `least` of `judged` inputs, or more, are flagged with probability `POWER`; None beyond 1."""
    return float(special.betaincinv(least, judged - least + 1, POWER)) if least <= judged else None
