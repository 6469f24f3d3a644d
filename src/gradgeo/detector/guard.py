"""A classifier that gives its verdict along with its logits, as one module to put where the model was."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gradgeo.classifier.isolated_copy import unwrapped
from gradgeo.detector.detector import Detector
from gradgeo.detector.results import Predictions
from gradgeo.errors import GradgeoError, NotFittedError, expected, public

POLICIES = ("flag", "raise")


class Answer(NamedTuple):
    """Logits and verdicts of one pass over a batch; tensors only, which loaders, trainers and pytrees know to handle.

    The verdicts are as in `Predictions`, (N,) each on the CPU.
    """

    logits: Tensor
    """(N, C), on the device of the input; NaN where input or logits are not finite."""
    label: Tensor
    probability: Tensor
    outlier_score: Tensor
    p_value: Tensor
    trusted: Tensor

    @property
    def verdict(self) -> Predictions:
        """The verdicts alone."""
        return Predictions(*self[1:])


Policy = str | Callable[[Answer, Tensor], Answer | None]


class UntrustedError(GradgeoError):
    """A guarded model met predictions that are not trusted and is to raise; `answer` holds the whole batch."""

    def __init__(self, message: str, answer: Answer) -> None:
        super().__init__(message)
        self.answer = answer


@public
def guard(model: nn.Module, detector: Detector, *, on_untrusted: Policy = "flag") -> "Guarded":
    """`model` as a module that returns logits and verdicts together, from the same forward pass.

    Example:
        >>> import torch, gradgeo
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5)).eval()
        >>> x = torch.rand(200, 3, 2, 2, generator=torch.Generator().manual_seed(0))
        >>> guarded = gradgeo.guard(model, gradgeo.Detector(model).fit(x))
        >>> with torch.inference_mode():
        ...     answer = guarded(x[:8])
        >>> answer.logits.shape, answer.trusted.shape
        (torch.Size([8, 5]), torch.Size([8]))

    Args:
        model: the classifier that `detector` was fitted with or loaded for, the same object.
        detector: fitted.
        on_untrusted: what to do where some row is not trusted. "flag": nothing more than `trusted` in the answer.
            "raise": UntrustedError, whose `answer` holds the batch. A function: called with the answer and the
            positions of these rows (M,), once a batch; what it returns, unless that is None, is returned in place of
            the answer.

    Raises:
        ArgumentError: another model than the detector's, or no such policy. NotFittedError.
    """
    if not isinstance(detector, Detector):
        raise expected("detector", "a gradgeo.Detector", detector)
    if not isinstance(model, nn.Module):
        raise expected("model", "a torch.nn.Module", model, "Wrap the function in a Module and fit a detector for it.")
    known = detector.model
    if not isinstance(known, nn.Module) or unwrapped(known) is not unwrapped(model):
        raise expected(
            "model",
            "the detector's own model",
            model,
            "Pass detector.model, or load the detector for this one: Detector.load(path, model).",
        )
    if not hasattr(detector, "calibration_size_"):
        raise NotFittedError("the detector is not fitted. Call fit(data) with trusted inputs first.")
    detector.warn_if_model_changed()
    if not callable(on_untrusted) and on_untrusted not in POLICIES:
        raise expected("on_untrusted", "'flag', 'raise' or a function of the answer and the rows", on_untrusted)
    return Guarded(model, detector, on_untrusted)


class Guarded(nn.Module):
    """A model that returns logits and verdicts together; see `guard`.

    Judging is inference whatever the context: gradients are switched on inside and off again, also under
    `torch.no_grad` and `torch.inference_mode` and for inputs created there; logits are those of eval mode and carry no
    graph. `train()` reaches the model, as in any module that holds one, and changes no verdict.

    The model is the submodule `model`: `to(device)` and `state_dict` (keys `model.*`) go through it, and verdicts
    follow it to its device. The detector is no part of the state dict: `detector.save` writes it. Weights other than
    those it was fitted with, loaded or trained, bring a warning, as its false-alarm rate no longer holds.

    Cost: that of `Detector.predict`; its forward pass takes the place of the model's own.
    """

    def __init__(self, model: nn.Module, detector: Detector, on_untrusted: Policy) -> None:
        super().__init__()
        self.model = model
        self.detector = detector
        self.on_untrusted = on_untrusted
        self.training = model.training
        self.register_load_state_dict_post_hook(_notice_other_weights)

    def forward(self, x: Tensor | Sequence[str]) -> Answer:
        """Logits and verdicts of inputs (N, *input), or of texts."""
        judged = self.detector.judge(x)
        verdict = judged.predictions
        logits = judged.logits.to(x.device) if isinstance(x, Tensor) else judged.logits
        answer = Answer(logits, **vars(verdict))
        rows = torch.nonzero(~verdict.trusted)[:, 0]
        if self.on_untrusted == "flag" or not len(rows):
            return answer
        if callable(self.on_untrusted):
            replaced = self.on_untrusted(answer, rows)
            return answer if replaced is None else replaced
        raise UntrustedError(_refusal(answer, rows), answer)

    def extra_repr(self) -> str:
        """The detector and what is done with untrusted predictions."""
        policy = getattr(self.on_untrusted, "__name__", self.on_untrusted)
        return f"{self.detector!r}, on_untrusted={policy}"


def _refusal(answer: Answer, rows: Tensor) -> str:
    first = int(rows[0])
    p = float(answer.p_value[first])
    why = "cannot be judged" if p != p else f"has p = {p:.4f}"
    return f"{len(rows)} of {len(answer.trusted)} predictions are not trusted; the first, row {first}, {why}."


def _notice_other_weights(guarded: Any, incompatible: Any) -> None:
    guarded.detector.warn_if_model_changed()
