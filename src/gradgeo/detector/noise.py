"""The Gaussian noise of a detector that judges x + Z: drawn anew for each query, so that an attacker cannot know it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gradgeo.errors import ArgumentError, expected

_FIT = 0x6E6F6973  # keeps the draws of `fit` apart from others of the same seed

_repeated: ContextVar[np.random.Generator | None] = ContextVar("repeated", default=None)


@dataclass(frozen=True)
class Noise:
    """Z ~ N(0, sigma^2 I) for readings of data; sigma 0 is none."""

    sigma: float = 0.0
    """Standard deviation, in input units."""
    seed: int | None = None
    """Of draws that are the same in each reading, as `fit` needs them; None for others each time."""

    def reading(self) -> Callable[[Tensor], Tensor]:
        """What adds the noise to one batch (n, *input) after another of a reading.

        The draws go from row to row, however these are cut into batches. Sums are formed in float64 and rounded once,
        to the type of x: it is that of the exact x + Z, whatever x, as the certificate supposes.
        """
        if not self.sigma:
            return lambda x: x
        rng = _generator() if self.seed is None else np.random.default_rng((_FIT, self.seed))

        def add(x: Tensor) -> Tensor:
            if not x.is_floating_point() or x.layout != torch.strided or x.is_meta:
                return x  # no classifier takes it, and says so
            z = torch.from_numpy(rng.standard_normal(tuple(x.shape))).to(x.device)  # (n, *input) float64
            return (x.double() + self.sigma * z).to(x.dtype)

        return add

    def refuse_draws(self, draws: bool) -> None:
        """ArgumentError for noise before a model that `draws` random numbers: what is proved is of a function."""
        if self.sigma and draws:
            raise ArgumentError(
                "expected a model that draws no random numbers, for noise is proved of a function; got one that does. "
                "Fit without noise."
            )

    def refuse_texts(self, texts: bool) -> None:
        """ArgumentError for noise on `texts`, whose inputs hold the numbers of tokens beside what stands for them."""
        if self.sigma and texts:
            raise expected("noise", "None for texts", self.sigma, "Changes of a text are not small in L2.")

    def refuse_wider_than(self, width: float) -> None:
        """ArgumentError for noise beyond the `width` of the inputs' range, which is a mistake of units."""
        if self.sigma > width > 0:
            rule = f"at most {width:.6g}, the width of the inputs' range"
            raise expected("noise", rule, self.sigma, "It is in units of the inputs as the detector gets them.")


NO_NOISE = Noise()


def _generator() -> np.random.Generator:
    """Seeded by the operating system for each call: nothing of it is left in a copy of the detector or the process."""
    return _repeated.get() or np.random.default_rng()


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """For tests and measurements: the queries of this thread within it draw the same noise each time it is run.

    Verdicts made within it certify nothing to anyone who may know the seed.
    """
    token = _repeated.set(np.random.default_rng(seed))
    try:
        yield
    finally:
        _repeated.reset(token)
