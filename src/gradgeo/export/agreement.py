"""Whether an exported graph says what the detector says, and how nearly."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gradgeo.classifier.prepared import clean
from gradgeo.classifier.wrapper import Classifier, preserve_state
from gradgeo.detector.detector import Detector
from gradgeo.errors import ExportError, UnusableInputWarning
from gradgeo.geometry.autograd import AutogradJacobian

if TYPE_CHECKING:
    from gradgeo.export.split import Split

LOGITS, GRADIENTS = 1e-4, 1e-4
"""How far logits and gradients may be apart, relative to the largest of an input, at least 1 for logits."""

SCORES = 1e-3
"""How far a score may be apart, relative to its size where that is above 1."""

FLIPPED = 0.25
"""Share of the inputs, two at least, whose score may be further apart, where the sign of an entry near zero flipped."""

Judged = Callable[[Tensor], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Agreement:
    """How an exported graph compares with its detector on some inputs."""

    logits: float  # largest difference, relative to the largest of the input where that is above 1
    scores: Tensor  # (N,) difference of each, relative to its size where that is above 1
    verdicts: Tensor  # (N,) bool, whether `trusted` is the same

    def __repr__(self) -> str:
        n, same = len(self.scores), int(self.verdicts.sum())
        return f"Agreement({n} inputs, scores within {float(self.scores.max()):.2g}, verdicts the same on {same})"


def compare(detector: Detector, judged: Judged, x: Tensor) -> Agreement:
    """The answers to `x` of a graph, in one batch, beside the detector's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnusableInputWarning)
        known = detector.judge(x)
    found = judged(x)
    score, ours = known.predictions.outlier_score, found["outlier_score"]
    apart = (ours - score).abs() / score.abs().clamp_min(1)
    apart = torch.where(ours.isnan() & score.isnan(), 0.0, apart).nan_to_num(torch.inf)
    usable = x.flatten(1).isfinite().all(1)
    logits = (found["logits"] - known.logits)[usable].abs().nan_to_num(torch.inf)
    scale = known.logits[usable].abs().amax(1, keepdim=True).clamp_min(1)
    same = found["trusted"] == known.predictions.trusted
    return Agreement(float((logits / scale).max()) if len(logits) else 0.0, apart, same)


def hold(detector: Detector, judged: Judged, x: Tensor, what: str) -> Agreement:
    """The agreement on `x`, after the same one by one, and beside an input that cannot be judged.

    Raises: ExportError if an answer is another than the detector's.
    """
    spoilt = torch.cat([x[:1], torch.full_like(x[:1], torch.nan), x[1:3]])
    for batches in (x[:4].split(1), [spoilt], [x]):
        parts = [compare(detector, judged, batch) for batch in batches]
        scores, logits = torch.cat([part.scores for part in parts]), max(part.logits for part in parts)
        off = int((scores > SCORES).sum())
        if logits > LOGITS or off > max(2, FLIPPED * len(scores)) or bool(scores.isinf().any()):
            raise ExportError(
                f"{what} gives other answers than the detector in batches of {len(batches[0])}: logits {logits:.2g} "
                f"apart, {off} of {len(scores)} scores more than {SCORES}. Nothing was written; serve this model in "
                "Python instead."
            )
    return parts[0]


def settle(split: "Split", classifier: Classifier, x: Tensor) -> None:
    """Choose how `split` pulls back, so that its gradients are autograd's in batches of one and of all of `x`.

    Raises: ExportError where neither way gives them.
    """
    for split.tiles in (True, False):
        if all(_same_gradients(split, classifier, batch) for batch in (x[:1], x)):
            return
    raise ExportError(
        "the traced gradients of the model are not those of autograd. Its answer to one input may depend on the others "
        "of the batch, or on random numbers; serve it in Python instead."
    )


def _same_gradients(split: "Split", classifier: Classifier, x: Tensor) -> bool:
    batch = clean(x)
    with preserve_state(x, recurrent=classifier.recurrent):
        known = AutogradJacobian(classifier.optimized(batch), batch).basis.flatten(2)
    with torch.no_grad():
        _, _, saved = split(batch.x)
        cotangents = torch.eye(split.rank, dtype=x.dtype)[:, None].expand(-1, len(x), -1)
        try:
            found = split.vjp(saved, cotangents).transpose(0, 1).flatten(2)
        except (RuntimeError, ValueError):  # shapes that do not fit further rows
            return False
    if known.shape != found.shape:
        return False
    largest = known.abs().amax((1, 2)).clamp_min(1e-30)
    return bool(((known - found).abs().amax((1, 2)) <= GRADIENTS * largest).all())
