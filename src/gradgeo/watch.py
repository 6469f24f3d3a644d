"""Monitoring a stream of p-values for a shift, with a false-alarm probability that holds at every time."""

from __future__ import annotations  # signatures say ArrayLike, not the union behind it

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from gradgeo._files import atomic_stream, regular_file
from gradgeo._typing import Array
from gradgeo.errors import DataError, expected, is_integer, one_line, public

POWERS = (0.1, 0.3, 0.6)
"""Exponents e of the bets e u^(e - 1) that all p-values are small; the smaller e, the smaller the p-values."""

STEPS = ((0.01, 0.05), (0.05, 0.1))
"""(q, w) of the bets 1 - w + w / q [u < q] that a share w of the p-values is below q and the others are as before."""

WINDOWS = 8
"""Equal parts of [0, 1], each with a bet on it, where the stream is its own baseline."""

_POWERS = np.asarray(POWERS)
_BELOW, _STAKE = np.asarray(STEPS).T


@dataclass(frozen=True)
class WatchState:
    """The state of a `Watch`."""

    inputs: int
    """Number of p-values so far, including those of the baseline."""
    unjudgeable: int
    """Number of NaN p-values, which are not among `inputs`."""
    evidence: float
    """log10 of the martingale; the alarm is at -log10(rate)."""
    peak: float
    """The largest evidence so far."""
    alarm: bool
    """Whether the peak has reached the alarm."""
    alarm_at: int | None
    """The number of inputs at the alarm; None without one."""
    rate: float = 1e-3
    """The probability of a false alarm at any time."""

    def __str__(self) -> str:
        """A sentence: the odds are those of a bet against the p-values being as on the calibration inputs."""
        needed = f"{1 / self.rate:,.0f} to 1"
        if self.alarm:
            return f"after {self.alarm_at} of {self.inputs} inputs the odds of a shift reached {needed}"
        odds = min(10**self.evidence, 1 / self.rate)
        so_far = f"the odds of a shift are {odds:,.0f} to 1" if odds >= 1.5 else "nothing speaks for a shift"
        return f"none in {self.inputs} inputs: {so_far}, an alarm takes {needed}"


class Watch:
    """A sequential test, valid at every time, that p-values are still distributed as on the calibration inputs.

    Example:
        >>> import numpy as np
        >>> watch = Watch(calibration_size=99, rate=1e-3)
        >>> rng = np.random.default_rng(0)
        >>> watch.update(rng.integers(1, 101, 500) / 100).alarm  # as for trusted inputs
        False
        >>> watch.update(rng.integers(1, 21, 50) / 100).alarm  # a shift: all below 0.2
        True

    Args:
        calibration_size: the number of calibration scores, `detector.calibration_size_`.
        rate: the probability of a false alarm at any time, however long the stream.
        baseline: 0 compares the stream with the calibration inputs. A number n compares it with its own first n inputs
            and later past, and bets only after them: for a stream with a constant share of mistakes and unusual inputs,
            which the calibration inputs, all trusted, do not have.
        mistakes: p-values of misclassified inputs that belong to what the stream is compared with, in their natural
            share: `detector.mistake_p_values_`. A classifier errs, and without them its mistakes set the alarm off in
            time. None with a `baseline`, which has its own.
        seed: of the random numbers that a baseline needs; without a baseline nothing is drawn.

    Assumption without a shift: the inputs of the stream, and those of the calibration unless there is a baseline, are
    exchangeable. Frames of one video are not, and raise an alarm. The rate holds for one run from the first input to
    the last; a new Watch after an alarm has a rate of its own.

    Method: split-conformal p-values depend on each other through the calibration set, and a test that takes them for
    independent and uniform raises an alarm eventually. Their joint distribution is known, however: the ranks of the
    inputs among the calibration scores are draws from a Polya urn that starts with one ball for each of the n + 1
    ranks, and one more for each of the `mistakes`: the scores of both together are exchangeable with the stream's, and
    ranks among all of them are merged into those among the calibration scores. Each rank thus has a known probability
    P given the earlier ones and covers a cell [F, F + P] of [0, 1]. A bet b, a density on [0, 1], pays its mean over
    the cell, so the wealth is a martingale that starts at 1. By Ville's inequality it reaches 1 / rate at any time with
    probability at most `rate`. The bets `POWERS` and `STEPS` decrease in u; ties among calibration scores only increase
    p-values and so only make alarms rarer.

    With a baseline the urn starts empty, and only exchangeability is assumed. A bet pays its value at a random point of
    the cell, the smoothed conformal p-value, which is uniform and independent of the earlier ones for any scores and
    ties. The bets on `WINDOWS` also detect inputs that are too similar to each other, as those of a stuck sensor.

    The time of a change is unknown: a share 1 / log2(t + 1) - 1 / log2(t + 2) of the wealth enters the bets at input t,
    so after losses before a change an alarm needs only about log(t) more in the logarithm of the evidence.

    CUSUM and Shiryaev-Roberts bound the mean time to a false alarm, and raise one eventually in an endless stream; the
    martingale bounds the probability of any false alarm, which suits a service that runs for years.

    Not detected: p-values that become larger, with `baseline=0`; a change that ends before its evidence suffices; a
    change within the baseline. NaN p-values, of inputs that cannot be judged, are counted separately: monitor their
    share.

    Cost: O(calibration_size) additions per input, 10 to 30 microseconds.

    Source: Vovk et al., "Retrain or not retrain: conformal test martingales for change-point detection", 2021; power
    martingales: Vovk, Gammerman and Shafer 2005, section 7.1. Deviations: without a baseline, the urn replaces their
    random points; a prior over the time of the change replaces their jumps between bets.
    """

    @public
    def __init__(
        self,
        calibration_size: int,
        *,
        rate: float = 1e-3,
        baseline: int = 0,
        seed: int = 0,
        mistakes: ArrayLike | None = None,
    ) -> None:
        for name, value, least in (
            ("calibration_size", calibration_size, 1),
            ("baseline", baseline, 0),
            ("seed", seed, 0),
        ):
            if not is_integer(value) or value < least:
                raise expected(name, f"an integer, {least} or more", value)
        if not isinstance(rate, int | float) or not 0 < rate < 1:
            raise expected("rate", "a number between 0 and 1", rate)
        self.calibration_size, self.rate, self.baseline, self.seed = calibration_size, float(rate), baseline, seed
        # The urn, one entry for each rank 1..n + 1.
        self._balls = np.zeros(calibration_size + 1) if baseline else np.ones(calibration_size + 1)
        self._mistakes = 0
        if mistakes is not None and np.size(mistakes):  # scores of calibration and mistakes together start the urn
            if baseline:
                raise expected("mistakes", "None with a baseline", mistakes)
            ranks = self._ranks(mistakes)
            self._mistakes = len(ranks)
            np.add.at(self._balls, ranks, 1.0)
        bets = len(POWERS) + len(STEPS) + (WINDOWS if baseline else 0)
        self._wealth = np.full(bets, -np.inf)  # (B,) log of the wealth of each bet
        self._inputs = self._unjudgeable = 0
        self._evidence = self._peak = 0.0
        self._alarm_at: int | None = None

    @property
    def state(self) -> WatchState:
        """The state after the p-values so far."""
        return WatchState(
            self._inputs,
            self._unjudgeable,
            self._evidence / math.log(10),
            self._peak / math.log(10),
            self._alarm_at is not None,
            self._alarm_at,
            self.rate,
        )

    @public
    def update(self, p_values: ArrayLike) -> WatchState:
        """Add p-values (N,) in the order of the stream; NaN where an input could not be judged.

        Raises: ArgumentError unless all are p-values of this many calibration scores; then none of them is counted.
        """
        for rank in self._ranks(p_values):
            if rank < 0:
                self._unjudgeable += 1
                continue
            self._inputs += 1
            if self._inputs > self.baseline:
                self._bet(rank)
            self._balls[rank] += 1
        return self.state

    def _ranks(self, p_values: ArrayLike) -> list[int]:
        """The rank of each p-value from 0, the smallest; -1 for NaN."""
        p = np.asarray(getattr(p_values, "tolist", lambda: p_values)(), dtype=np.float64)
        if p.ndim != 1:
            raise expected("p_values", "of shape (N,)", p)
        exact = np.where(np.isnan(p), 0.0, p * len(self._balls))
        ranks = np.rint(np.clip(exact, -1e6, 1e9)).astype(np.int64)
        if len(p) and (bool((np.abs(exact - ranks) > 1e-3).any()) or ranks.min() < 0 or ranks.max() > len(self._balls)):
            raise expected(
                "p_values",
                f"multiples of 1 / {len(self._balls)} in (0, 1], or NaN",
                p,
                "Pass the p-values of the detector that has this calibration_size.",
            )
        if bool((ranks[~np.isnan(p)] == 0).any()):
            raise expected("p_values", "above 0", p)
        return [int(rank) - 1 for rank in ranks]

    def _bet(self, rank: int) -> None:
        """Update the wealth by one rank: w_b <- (w_b + stake_t / B) pay_b, in logarithms."""
        own = 1 if self.baseline else 0  # an urn that started empty ranks an input among all so far, itself included
        total = self._balls.sum() + own
        # The cell of the rank: its probability given the past is its share of the balls.
        low = self._balls[:rank].sum() / total
        high = min(low + (self._balls[rank] + own) / total, 1.0)
        t = self._inputs - self.baseline  # bets so far, this one included
        # The stakes of inputs 1..t sum to 1 - 1 / log2(t + 2), for the series telescopes: log2(2) = 1 at its start.
        stake = math.log((1 / math.log2(t + 1) - 1 / math.log2(t + 2)) / len(self._wealth))
        pay = self._pay_at(low, high, t) if self.baseline else self._mean_pay(low, high)
        self._wealth = np.logaddexp(self._wealth, stake) + np.log(pay)
        not_staked = -math.log(math.log2(t + 2))
        self._evidence = float(np.logaddexp.reduce(self._wealth, initial=not_staked))
        self._peak = max(self._peak, self._evidence)
        if self._alarm_at is None and self._evidence >= -math.log(self.rate):
            self._alarm_at = self._inputs

    def _mean_pay(self, low: float, high: float) -> Array:
        """The mean of each bet over the cell [low, high] -> (B,)."""
        powers = (high**_POWERS - low**_POWERS) / (high - low)  # the integral of e u^(e - 1) is u^e
        inside = np.clip(np.minimum(high, _BELOW) - low, 0, None) / (high - low)
        return np.concatenate([powers, 1 - _STAKE + _STAKE / _BELOW * inside])

    def _pay_at(self, low: float, high: float, t: int) -> Array:
        """The value of each bet at a random point of the cell (low, high] -> (B,)."""
        u = high - (high - low) * float(np.random.default_rng([self.seed, t]).random())  # above low, so above 0
        window = np.full(WINDOWS, 0.5)  # each a mixture of the uniform density and that on one window
        window[min(int(u * WINDOWS), WINDOWS - 1)] += 0.5 * WINDOWS
        steps = 1 - _STAKE + _STAKE / _BELOW * (u < _BELOW)
        return np.concatenate([_POWERS * u ** (_POWERS - 1), steps, window])

    def as_dict(self) -> dict[str, Any]:
        """The whole state as JSON values, from which another process can continue."""
        return {
            "calibration_size": self.calibration_size,
            "rate": self.rate,
            "baseline": self.baseline,
            "seed": self.seed,
            **({"mistakes": self._mistakes} if self._mistakes else {}),
            "balls": self._balls.tolist(),
            "wealth": [None if value == -math.inf else value for value in self._wealth.tolist()],
            "inputs": self._inputs,
            "unjudgeable": self._unjudgeable,
            "evidence": self._evidence,
            "peak": self._peak,
            "alarm_at": self._alarm_at,
        }

    @classmethod
    @public
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`. Raises: ArgumentError for any other mapping."""
        try:
            watch = cls(**{name: state[name] for name in ("calibration_size", "rate", "baseline", "seed")})
            balls, wealth = (
                np.array([-math.inf if value is None else value for value in state[name]], dtype=np.float64)
                for name in ("balls", "wealth")
            )
            counts = [int(state[name]) for name in ("inputs", "unjudgeable")]
            mistakes = int(state.get("mistakes", 0))
            alarm_at = None if state["alarm_at"] is None else int(state["alarm_at"])
            evidence, peak = float(state["evidence"]), float(state["peak"])
        except (KeyError, TypeError, ValueError) as error:
            raise expected("state", "what Watch.as_dict gave", state) from error
        drawn = counts[0] + (0 if watch.baseline else len(watch._balls) + mistakes)
        if (
            balls.shape != watch._balls.shape
            or wealth.shape != watch._wealth.shape
            or not (balls >= 0).all()
            or balls.sum() != drawn
            or min(*counts, mistakes) < 0
            or (watch.baseline and mistakes)
            or not (wealth < math.inf).all()
            or not (math.isfinite(evidence) and evidence <= peak < math.inf)
        ):
            raise expected("state", "what Watch.as_dict gave", state)
        watch._balls, watch._wealth = balls, wealth
        watch._inputs, watch._unjudgeable = counts
        watch._mistakes = mistakes
        watch._evidence, watch._peak, watch._alarm_at = evidence, peak, alarm_at
        return watch


FORMAT = "gradgeo.watch/1"
LARGEST = 1 << 26  # bytes of a file


def save(path: Path, watches: Mapping[str, Watch], *, detector: str, runs: Sequence[str] = ()) -> None:
    """Write watches by name to a file, for another process to go on with.

    Args:
        path: the file, which appears as a whole or not at all.
        watches: by what each compares the stream with.
        detector: whose p-values they were given, `Detector.digest()`.
        runs: what they were given already, so that nothing counts twice.
    """
    document = {
        "format": FORMAT,
        "detector": detector,
        "runs": list(runs),
        "watches": {name: watch.as_dict() for name, watch in watches.items()},
    }
    with atomic_stream(path) as stream:
        stream.write(json.dumps(document).encode())


def load(path: Path, *, detector: str) -> tuple[dict[str, Watch], list[str]] | None:
    """The watches and runs of a file that `save` wrote; None where there is no file.

    Raises: DataError for a file of another kind, or of the watches of another detector.
    """
    if not path.exists():
        return None
    regular_file(path)
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it has more than {LARGEST:,} bytes")
        document = json.loads(path.read_bytes())
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        watches = {str(name): Watch.from_dict(state) for name, state in dict(document["watches"]).items()}
        runs = [str(run) for run in document["runs"]]
        other = str(document["detector"])
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DataError(f"{path} is no state of a watch: {one_line(str(error))}.") from error
    if other != detector:
        raise DataError(
            f"{path} is of p-values of the detector {one_line(other)[:16]}, this one is {detector[:16]}. Name another "
            "file."
        )
    return watches, runs
