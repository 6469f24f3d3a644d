"""Whether an exported graph gives the detector's outputs, and how nearly."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradgeo.detector.detector import Detector
from gradgeo.errors import ExportError, UnusableInputWarning

LOGITS = 1e-4
"""How far logits may be apart, relative to the largest of an input where that is above 1."""

SCORES = 1e-3
"""How far a score may be apart, relative to its size where that is above 1."""

FLIPPED = 0.25
"""Share of the inputs, two at least, whose score may be further apart, where the sign of an entry near zero flipped."""

Runner = Callable[[Tensor], Mapping[str, Tensor]]
"""An exported graph that is ready to run: inputs (N, *input) -> its outputs by name."""


@dataclass(frozen=True)
class Agreement:
    """How an exported graph compares with its detector on some inputs."""

    logits: float
    """The largest difference of logits, relative to the largest logit of the input where that is above 1."""
    scores: Tensor
    """(N,) difference of each outlier score, relative to its size where that is above 1."""
    verdicts: Tensor
    """(N,) bool: whether `trusted` is the same."""

    def __repr__(self) -> str:
        n, same = len(self.scores), int(self.verdicts.sum())
        return f"Agreement({n} inputs, scores within {float(self.scores.max()):.2g}, verdicts the same on {same})"

    @property
    def flipped(self) -> int:
        """How many scores are further apart than rounding alone moves them."""
        return int((self.scores > SCORES).sum())


def compare(detector: Detector, run: Runner, x: Tensor) -> Agreement:
    """The outputs of a graph for `x` (N, *input), in one batch, against the detector's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusableInputWarning)
        expected = detector.judge(x)
    outputs = run(x)
    known, score = expected.predictions.outlier_score, outputs["outlier_score"]  # (N,)
    apart = (score - known).abs() / known.abs().clamp_min(1)
    apart = torch.where(score.isnan() & known.isnan(), 0.0, apart).nan_to_num(torch.inf)
    usable = x.flatten(1).isfinite().all(1)
    logits = (outputs["logits"] - expected.logits)[usable].abs().nan_to_num(torch.inf)  # (usable, C)
    scale = expected.logits[usable].abs().amax(1, keepdim=True).clamp_min(1)
    same = outputs["trusted"] == expected.predictions.trusted
    return Agreement(float((logits / scale).max()) if len(logits) else 0.0, apart, same)


def joined(parts: Sequence[Agreement]) -> Agreement:
    """The agreement on several batches as one."""
    return Agreement(
        max(part.logits for part in parts),
        torch.cat([part.scores for part in parts]),
        torch.cat([part.verdicts for part in parts]),
    )


def verify_outputs(detector: Detector, run: Runner, x: Tensor, what: str) -> Agreement:
    """The agreement on `x`, after that of inputs one by one and of a batch with an unusable row.

    Args:
        x: (N, *input), N >= 4.
        what: is run, for the message.

    Raises:
        ExportError: logits or too many scores are not the detector's.
    """
    spoilt = torch.cat([x[:1], torch.full_like(x[:1], torch.nan), x[1:3]])
    for batches in (x[:4].split(1), [spoilt], [x]):
        agreement = joined([compare(detector, run, batch) for batch in batches])
        off, n = agreement.flipped, len(agreement.scores)
        if agreement.logits > LOGITS or off > max(2, FLIPPED * n) or bool(agreement.scores.isinf().any()):
            raise ExportError(
                f"{what} gives other answers than the detector in batches of {len(batches[0])}: logits "
                f"{agreement.logits:.2g} apart, {off} of {n} scores more than {SCORES}. Nothing was written; serve "
                "this model in Python instead."
            )
    return agreement
