"""Watching a stream of p-values: an alarm once they are no longer what they were, right at any moment one looks."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from gradgeo._typing import Array
from gradgeo.errors import expected, public

POWERS = (0.1, 0.3, 0.6)
"""Exponents e of the bets e u^(e - 1): that all p-values are tiny, that all are rather small, and between."""

STEPS = ((0.01, 0.05), (0.05, 0.1))
"""(q, w) of the bets 1 - w + w / q [u < q]: that a few inputs, about w of all, are below q, and the others as ever."""

WINDOWS = 8
"""Equal parts of [0, 1] on each of which one further bet is placed, where the stream is its own baseline."""

_POWERS = np.asarray(POWERS)
_BELOW, _STAKE = np.asarray(STEPS).T


@dataclass(frozen=True)
class WatchState:
    """What a `Watch` has come to."""

    inputs: int  # p-values seen, those of the baseline among them
    unjudgeable: int  # NaN p-values, which count nowhere else
    evidence: float  # log10 of the martingale; an alarm at -log10(rate)
    peak: float  # its largest value so far
    alarm: bool  # whether the peak has reached the alarm, ever
    alarm_at: int | None  # how many inputs had been seen then

    def __str__(self) -> str:
        told = f"after {self.alarm_at} of {self.inputs}" if self.alarm else f"none in {self.inputs} inputs"
        return f"{told} (10^{self.evidence:.1f} to 1)"


class Watch:
    """A test, valid at every moment, that p-values keep coming as they should.

    Example:
        >>> import numpy as np
        >>> watch = Watch(calibration_size=99, rate=1e-3)
        >>> rng = np.random.default_rng(0)
        >>> watch.update(rng.integers(1, 101, 500) / 100).alarm  # as trusted inputs give them
        False
        >>> watch.update(rng.integers(1, 21, 50) / 100).alarm  # a shift: all below 0.2
        True

    Args:
        calibration_size: how many scores the p-values are ranks among, `detector.calibration_size_`.
        rate: the probability that it ever alarms, however long the stream, although nothing has changed.
        baseline: 0 compares the stream with the calibration inputs. A number compares it with its own past instead, and
            bets from then on only: for a stream that has always held its share of mistakes and odd inputs, which the
            calibration inputs, all of them trusted, have not.
        seed: of the random numbers that a baseline needs; without one nothing is drawn.

    What it assumes when all is well: the inputs (from the stream, and of the calibration unless there is a baseline)
    are exchangeable. Frames of one video are not, and alarm. The promise is for one run, from the first input to the
    last; a Watch that is made anew after an alarm spends another `rate`.

    How: split-conformal p-values are not independent: all hang on one calibration set, and a test that takes them for
    uniform alarms sooner or later for certain. Their joint law is known nevertheless: the ranks of the inputs among the
    calibration scores are draws from a Polya urn that starts with one ball for each of the n + 1 ranks. Each rank so
    has a known probability P given those before it and covers a cell [F, F + P] of [0, 1]; a bet b, a density on
    [0, 1], pays its mean over the cell, and the wealth is a martingale that starts at 1. By Ville's inequality it ever
    reaches 1 / rate with probability at most `rate`. The bets, `POWERS` and `STEPS`, fall with u, so ties among
    calibration scores, which make p-values larger only, make alarms rarer only.

    With a baseline the urn starts empty, and nothing but exchangeability is known: a bet pays its value at a random
    point of the cell, the smoothed conformal p-value, which is uniform and independent of those before it whatever
    the scores and their ties. Further bets, on `WINDOWS`, notice inputs that resemble each other too much there, as
    those of a sensor that hangs do.

    When a change comes is not known: a share of the wealth, 1 / log2(t + 1) - 1 / log2(t + 2), enters the bets at
    input t, so that what was lost before costs a later alarm no more than about log t.

    Not CUSUM or Shiryaev-Roberts: these bound the mean time to a false alarm and in a stream without end alarm for
    certain; a service that runs for years wants the chance that it ever cries wolf.

    Not noticed: p-values that become larger, with `baseline=0`; a change that is over before it was seen; a change
    within the baseline. NaN p-values, of inputs that cannot be judged, are counted apart: alarm on their share.

    Cost: O(calibration_size) additions an input, 10 to 30 microseconds.

    Source: Vovk et al., "Retrain or not retrain: conformal test martingales for change-point detection", 2021; power
    martingales: Vovk, Gammerman and Shafer 2005, section 7.1. Deviations: without a baseline the urn takes the place of
    their random points; a prior over the time of the change takes that of their jumping between bets.
    """

    @public
    def __init__(self, calibration_size: int, *, rate: float = 1e-3, baseline: int = 0, seed: int = 0) -> None:
        for name, value, least in (
            ("calibration_size", calibration_size, 1),
            ("baseline", baseline, 0),
            ("seed", seed, 0),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise expected(name, f"an integer, {least} or more", value)
        if not isinstance(rate, int | float) or not 0 < rate < 1:
            raise expected("rate", "a number between 0 and 1", rate)
        self.calibration_size, self.rate, self.baseline, self.seed = calibration_size, float(rate), baseline, seed
        self._balls = np.zeros(calibration_size + 1) if baseline else np.ones(calibration_size + 1)
        self._wealth = np.full(
            len(POWERS) + len(STEPS) + (WINDOWS if baseline else 0), -np.inf
        )  # log of what each bet has
        self._inputs = self._unjudgeable = 0
        self._evidence = self._peak = 0.0
        self._alarm_at: int | None = None

    @property
    def state(self) -> WatchState:
        """What it has come to so far."""
        return WatchState(
            self._inputs,
            self._unjudgeable,
            self._evidence / math.log(10),
            self._peak / math.log(10),
            self._alarm_at is not None,
            self._alarm_at,
        )

    @public
    def update(self, p_values: ArrayLike) -> WatchState:
        """Take further p-values (N,), in the order of the stream; NaN where an input could not be judged.

        Raises: ArgumentError for what is no p-value of this many calibration scores; then none of them has counted.
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
        """0 for the most surprising, -1 for NaN."""
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
        own = 1 if self.baseline else 0  # in an urn that started empty an input is ranked among all so far with itself
        total = self._balls.sum() + own
        low = self._balls[:rank].sum() / total
        high = min(low + (self._balls[rank] + own) / total, 1.0)
        t = self._inputs - self.baseline
        enters = math.log((1 / math.log2(t + 1) - 1 / math.log2(t + 2)) / len(self._wealth))
        paid = self._paid_at(low, high, t) if self.baseline else self._paid_over(low, high)
        self._wealth = np.logaddexp(self._wealth, enters) + np.log(paid)
        kept = -math.log(math.log2(t + 2))
        self._evidence = float(np.logaddexp.reduce(self._wealth, initial=kept))
        self._peak = max(self._peak, self._evidence)
        if self._alarm_at is None and self._evidence >= -math.log(self.rate):
            self._alarm_at = self._inputs

    def _paid_over(self, low: float, high: float) -> Array:
        """The mean of each bet over the cell [low, high]."""
        powers = (high**_POWERS - low**_POWERS) / (high - low)
        inside = np.clip(np.minimum(high, _BELOW) - low, 0, None) / (high - low)
        return np.concatenate([powers, 1 - _STAKE + _STAKE / _BELOW * inside])

    def _paid_at(self, low: float, high: float, t: int) -> Array:
        """Each bet at a random point of the cell."""
        u = high - (high - low) * float(np.random.default_rng([self.seed, t]).random())  # above low, so above 0
        window = np.full(WINDOWS, 0.5)
        window[min(int(u * WINDOWS), WINDOWS - 1)] += 0.5 * WINDOWS
        steps = 1 - _STAKE + _STAKE / _BELOW * (u < _BELOW)
        return np.concatenate([_POWERS * u ** (_POWERS - 1), steps, window])

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON holds it, to go on from in another process."""
        return {
            "calibration_size": self.calibration_size,
            "rate": self.rate,
            "baseline": self.baseline,
            "seed": self.seed,
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
        """The inverse of `as_dict`. Raises: ArgumentError for anything else."""
        try:
            watch = cls(**{name: state[name] for name in ("calibration_size", "rate", "baseline", "seed")})
            balls, wealth = (
                np.array([-math.inf if value is None else value for value in state[name]], dtype=np.float64)
                for name in ("balls", "wealth")
            )
            counts = [int(state[name]) for name in ("inputs", "unjudgeable")]
            alarm_at = None if state["alarm_at"] is None else int(state["alarm_at"])
            evidence, peak = float(state["evidence"]), float(state["peak"])
        except (KeyError, TypeError, ValueError) as error:
            raise expected("state", "what Watch.as_dict gave", state) from error
        drawn = counts[0] + (0 if watch.baseline else len(watch._balls))
        if (
            balls.shape != watch._balls.shape
            or wealth.shape != watch._wealth.shape
            or not (balls >= 0).all()
            or balls.sum() != drawn
            or min(counts) < 0
            or not (wealth < math.inf).all()
            or not (math.isfinite(evidence) and evidence <= peak < math.inf)
        ):
            raise expected("state", "what Watch.as_dict gave", state)
        watch._balls, watch._wealth = balls, wealth
        watch._inputs, watch._unjudgeable = counts
        watch._evidence, watch._peak, watch._alarm_at = evidence, peak, alarm_at
        return watch
