"""What a person decided of single verdicts, with the record of how these were drawn: written and read here alone.

Rates need that record. Flagged inputs are few and all of them tend to be looked at, trusted ones are many and few are:
counted as they come, decisions would say nothing of all inputs. Each therefore counts by the inverse of the probability
with which it was drawn (Horvitz and Thompson 1952, JASA 47), and decisions without any of a trusted input are refused.
"""

import json
import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from scipy import special

from gradgeo._files import atomic_stream, regular_file
from gradgeo._typing import IntArray
from gradgeo.detector.calibration.conformal import FalseAlarmRate
from gradgeo.errors import DataError, one_line, public

FORMAT = "gradgeo.decisions/1"
LARGEST = 1 << 24  # bytes of a file
LONGEST = 1000  # characters of a name or note

AGREE = "agree"
CHOICES = (AGREE, "wrong_class", "none_of_the_classes", "artefact")
"""What can be decided: the predicted class is right; it is another one; none of them; the input is spoilt."""

MISSED = 1e-3
"""With what probability the numbers of right inputs lie outside of what `Decisions.chance` looks at."""


@dataclass(frozen=True)
class Drawn:
    """Inputs of one kind, flagged or trusted, of which a simple random sample was shown."""

    population: int
    """How many there are."""
    shown: int
    """How many were drawn, without replacement, and shown in the order of the draw."""


@dataclass(frozen=True)
class Sampling:
    """How the inputs that a person was shown were drawn."""

    flagged: Drawn
    trusted: Drawn
    seed: int
    """Of the draw."""
    share: float
    """The share of trusted ones among those shown that was asked for."""


@dataclass(frozen=True)
class Decision:
    """What a person decided of one verdict."""

    index: int
    """The column `index` of the verdicts."""
    name: str
    p: float
    """The p-value of the verdict."""
    trusted: bool
    decision: str
    """One of `CHOICES`."""
    time: str
    """When, in UTC, as 2026-11-29T10:11:12Z."""
    drawn: bool = True
    """False of one that was shown for another reason than the draw, as for its large score: it counts for no rate."""


@dataclass(frozen=True)
class Decisions:
    """All decisions on one report.

    Example:
        >>> sampling = Sampling(Drawn(20, 2), Drawn(380, 2), seed=0, share=0.5)
        >>> of = [(0, False, "agree"), (3, False, "wrong_class"), (5, True, "agree"), (9, True, "agree")]
        >>> day = "2026-11-29T10:11:12Z"
        >>> made = [Decision(i, f"{i}.png", 0.5 if t else 0.01, t, d, day) for i, t, d in of]
        >>> decisions = Decisions("report of a day", "0" * 64, sampling, tuple(made))
        >>> decisions.weights()  # one flagged decision stands for 10 inputs, one trusted for 190
        {False: 10.0, True: 190.0}
        >>> round(decisions.rate, 3)  # of right inputs: 10 of 390 are flagged
        0.026
    """

    report: str
    """Names the report."""
    detector: str
    """`Detector.digest()`."""
    sampling: Sampling
    decisions: tuple[Decision, ...]
    note: str = ""

    @classmethod
    @public
    def read(cls, path: str | Path) -> Self:
        """The decisions of a file. Raises: DataError for one that is missing, or breaks a rule of the format."""
        file = regular_file(path)
        try:
            if file.stat().st_size > LARGEST:
                raise DataError(f"{file} has more than {LARGEST:,} bytes.")
            return cls.from_dict(json.loads(file.read_bytes()))
        except OSError as error:
            raise DataError(f"cannot read {file}: {error.strerror or error}.") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file} is no file of decisions: {one_line(str(error))}.") from error

    @public
    def write(self, path: str | Path) -> None:
        """Write the file, whole or not at all."""
        with atomic_stream(Path(path)) as stream:
            stream.write(json.dumps(self.as_dict(), indent=1, allow_nan=False).encode())

    def as_dict(self) -> dict[str, Any]:
        """The JSON of a file."""
        document = {"format": FORMAT, **asdict(self), "decisions": [asdict(each) for each in self.decisions]}
        return document if self.note else {name: value for name, value in document.items() if name != "note"}

    @classmethod
    def from_dict(cls, document: Any) -> Self:
        """The inverse of `as_dict`. Raises: ValueError for any other mapping."""
        fields = {"format", "report", "detector", "sampling", "decisions"}
        _ensure(isinstance(document, Mapping) and document.get("format") == FORMAT, f"its format is not {FORMAT}")
        _ensure("sampling" in document, "it has no sampling record, without which decisions say nothing of all inputs")
        _has(document, "it", fields, {"note"})
        for name in {"report", "detector", "note"} & document.keys():
            _ensure(_text(document[name]), f"{name} is no text of at most {LONGEST} characters")
        _ensure(re.fullmatch("[0-9a-f]{64}", document["detector"]) is not None, "detector is no digest")
        _ensure(isinstance(document["decisions"], Sequence), "decisions are no list")
        decisions = tuple(map(_decision, document["decisions"]))
        read = cls(document["report"], document["detector"], _sampling(document["sampling"]), decisions,
                   document.get("note", ""))  # fmt: skip
        _ensure(len({each.index for each in decisions}) == len(decisions), "an index is decided twice")
        for trusted, drawn in read._strata.items():
            _ensure(drawn.shown <= drawn.population, "more are shown than there are")
            _ensure(read._count(trusted) <= drawn.shown, "more are decided than were shown")
        return read

    @property
    def _strata(self) -> dict[bool, Drawn]:
        return {False: self.sampling.flagged, True: self.sampling.trusted}

    @cached_property
    def _counts(self) -> Counter[tuple[bool, bool]]:
        """Of the drawn and decided, by whether trusted and whether the prediction is right."""
        return Counter((each.trusted, each.decision == AGREE) for each in self.decisions if each.drawn)

    def _count(self, trusted: bool) -> int:
        return self._counts[trusted, True] + self._counts[trusted, False]

    @property
    def undecided(self) -> int:
        """Inputs that were drawn and shown, and of which nothing was decided."""
        return sum(drawn.shown - self._count(trusted) for trusted, drawn in self._strata.items())

    def weights(self) -> dict[bool, float]:
        """For how many inputs one decision stands, on a flagged (False) and a trusted input (True).

        Raises: DataError where there are inputs of a kind and decisions on none of them.
        """
        weights = {}
        for trusted, drawn in self._strata.items():
            count = self._count(trusted)
            if drawn.population and not count:
                kind, other = ("trusted", "flagged") if trusted else ("flagged", "trusted")
                raise DataError(
                    f"expected decisions on some of the {drawn.population:,} {kind} inputs, got none. Decisions on "
                    f"{other} ones alone do not say what share of right predictions is flagged: review both."
                )
            weights[trusted] = drawn.population / count if count else 0.0
        return weights

    @property
    def rate(self) -> float:
        """The share of right predictions that is flagged, each decision by its weight; NaN where none is right."""
        weights = self.weights()
        flagged, trusted = (weights[each] * self._counts[each, True] for each in (False, True))
        return flagged / (flagged + trusted) if flagged + trusted else float("nan")

    def right(self, trusted: bool, level: float) -> tuple[int, int]:
        """How many inputs of a kind are predicted rightly: an exact interval, which misses it with `level` at most on
        either side (the hypergeometric distribution inverted)."""
        drawn, right, count = self._strata[trusted], self._counts[trusted, True], self._count(trusted)
        if not drawn.population:
            return 0, 0
        self.weights()
        possible = range(right, drawn.population - (count - right) + 1)
        low = bisect_right(possible, level, key=lambda r: _at_least(right, drawn.population, r, count))
        high = bisect_left(possible, -level, key=lambda r: _at_least(right + 1, drawn.population, r, count) - 1)
        return possible[low], possible[high - 1]

    def estimated(self, trusted: bool) -> int:
        """About how many inputs of a kind are predicted rightly."""
        return round(self.weights()[trusted] * self._counts[trusted, True])

    def chance(self, rate: FalseAlarmRate) -> float:
        """The largest probability of so many false alarms, or more, where the stated `rate` holds.

        How many inputs of either kind are right is known within intervals only; the least favourable numbers in them
        are taken, and what the intervals may miss is added (Berger and Boos 1994, JASA 89).
        """
        flagged, _ = self.right(False, MISSED / 2)
        _, trusted = self.right(True, MISSED / 2)
        return min(1.0, rate.chance_of_more(flagged, flagged + trusted) + MISSED)

    def smallest_seen(self, rate: FalseAlarmRate, level: float) -> float | None:
        """About the smallest rate here that `chance` would find to exceed the stated one, at `level`, in four of five
        cases, if as many trusted inputs are right and as large a share of the flagged ones was drawn; None for none."""
        low, about = self.right(False, MISSED / 2)[0], self.estimated(False)
        most, trusted = self.right(True, MISSED / 2)[1], self.estimated(True)
        known = (low / about) ** 1.25 if about else 1.0  # the reach of the interval, and a quarter more for the power

        def found(right: int) -> bool:
            return rate.chance_of_more(int(known * right), int(known * right) + most) + MISSED <= level

        counts = range(10 * (most + trusted) + 100)
        least = bisect_left(counts, True, key=found)
        return least / (least + trusted) if least < len(counts) and least else None

    def agreed(self, seed: int = 0) -> IntArray:
        """The column `index` of right predictions drawn so that each input of the data had the same chance, ascending.

        Decisions are kept with probabilities proportional to their weights, the largest with certainty: those that
        remain are exchangeable with all right predictions, as calibration needs, at the price of most flagged ones.
        """
        weights = self.weights()
        largest = max(weights.values())
        drawn = sorted((each for each in self.decisions if each.drawn), key=lambda each: each.index)
        kept = np.random.default_rng(seed).random(len(drawn)) * largest < [weights[each.trusted] for each in drawn]
        rows = [each.index for each, keep in zip(drawn, kept, strict=True) if keep and each.decision == AGREE]
        return np.array(rows, np.int64)

    def require(self, digest: str | None) -> None:
        """DataError where the decisions are on the verdicts of another detector."""
        if digest != self.detector:
            raise DataError(
                f"these decisions are on verdicts of the detector {self.detector[:16]}, this one is "
                f"{(digest or 'of evidence that is not known here')[:16]}. Pass the file that made the verdicts."
            )


def _at_least(x: int, population: int, right: int, count: int) -> float:
    """P(at least x of `count` are right), drawn without replacement from a population of which some are."""
    least, most = max(0, count - (population - right)), min(right, count)
    if x <= least:
        return 1.0
    k = np.arange(x, most + 1.0)

    def ways(n: Any, k: Any) -> Any:
        return -np.log(n + 1) - special.betaln(n - k + 1, k + 1)

    mass = np.exp(ways(right, k) + ways(population - right, count - k) - ways(population, count))
    return float(min(1.0, mass.sum()))


def _ensure(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def _has(value: Any, what: str, needed: set[str], optional: set[str] | None = None) -> None:
    _ensure(isinstance(value, Mapping), f"{what} is no object")
    names = set(value)
    wrong = (needed - names) | (names - needed - (optional or set()))
    _ensure(not wrong, f"{what} lacks or should not have {', '.join(sorted(map(str, wrong)))[:LONGEST]}")


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST


def _integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _sampling(value: Any) -> Sampling:
    _has(value, "sampling", {"flagged", "trusted", "seed", "share"})
    _ensure(_integer(value["seed"]) and _share(value["share"]), "its seed or share is not valid")
    strata = []
    for name in ("flagged", "trusted"):
        _has(value[name], name, {"population", "shown"})
        _ensure(all(map(_integer, value[name].values())), f"the numbers of {name} inputs are no counts")
        strata.append(Drawn(**value[name]))
    return Sampling(strata[0], strata[1], value["seed"], float(value["share"]))


def _decision(value: Any) -> Decision:
    _has(value, "a decision", {"index", "name", "p", "trusted", "decision", "time"}, {"drawn"})
    _ensure(_integer(value["index"]), "an index is no count")
    _ensure(_text(value["name"]), f"a name is no text of at most {LONGEST} characters")
    _ensure(_share(value["p"]) and value["p"] > 0, "a p is not within (0, 1]")
    _ensure(isinstance(value["trusted"], bool) and isinstance(value.get("drawn", True), bool), "trusted is no boolean")
    _ensure(value["decision"] in CHOICES, f"a decision is none of {', '.join(CHOICES)}")
    _ensure(_moment(value["time"]), "a time is not as 2026-11-29T10:11:12Z")
    return Decision(**value)


def _moment(value: Any) -> bool:
    if not isinstance(value, str) or not value.endswith("Z") or len(value) > 40:
        return False
    return datetime.fromisoformat(value).utcoffset() == UTC.utcoffset(None)
