"""How far float32 results are from the float64 reference, on trained classifiers and every option."""

import copy
from itertools import product

import torch
from torch import Tensor, nn

from benchmarks import reference
from benchmarks.page import Page
from benchmarks.shipped import SHIPPED, Suite
from gradgeo.bench.classifier_under_test import ClassifierUnderTest
from gradgeo.detector.detector import Detector
from gradgeo.geometry.losses import LOSSES
from gradgeo.geometry.saliency import saliency_maps
from gradgeo.geometry.similarity import csm


def run(suite: Suite) -> Page:
    """Errors of maps and CSMs against float64, for batches against singles, and under saturation."""
    page = Page("Accuracy against the float64 reference")
    page.say(
        "The reference is a loop over samples and classes in float64 (`benchmarks.reference`). Signed "
        "entries are "
        "in units of 4/d with d the number of input entries, so 1 is the most that is allowed: two flipped signs."
    )
    rows = [_against_reference(page, suite[name]) for name in SHIPPED]
    page.table(["model", "inputs", "options", "unsigned CSM, largest error", "signed CSM, largest error x d/4"], rows)
    page.say(
        "A batch of 64 against 64 batches of one, the same units. Where an input sits on a ReLU's kink to within "
        "rounding, the kernels of one batch size may take the other side of it than float64 does."
    )
    page.table(["model", "unsigned", "signed"], [_against_singles(page, suite[name]) for name in SHIPPED])
    page.say(
        "Signs of the predicted class's map that agree with float64 when the logits are multiplied, in %, and the same "
        "for the textbook gradient of `cross_entropy` in float32:"
    )
    page.table(["model", "x 1", "x 5", "x 20", "x 50", "textbook, x 50"], [_saturated(page, suite[n]) for n in SHIPPED])
    page.say(
        "Outlier scores of 1,000 inputs scored in batches of 1, 7 and 256 against batches of 64: share of rows within "
        "1e-4 (the joint score is a sum of powers, some hundreds for odd inputs). A gradient entry within rounding of "
        "zero may flip its sign when another batch size makes the "
        "convolutions add in another order."
    )
    page.table(
        ["model", "1", "7", "256"], [_batch_sizes(page, suite[name]) for name in ("fashion", "cifar10", "ecg5000")]
    )
    return page


def _against_reference(page: Page, classifier: ClassifierUnderTest) -> list[str]:
    count = 3 if classifier.name == "cifar100" else 10
    x, d = classifier.x[classifier.half :][:count], classifier.x[0].numel()
    unsigned = signed = 0.0
    options = [*product(LOSSES, (None, 10.0), (False, True))]
    for loss, temperature, rescale in options:
        exact = reference.maps(classifier.model, x, loss, temperature, rescale)
        chosen = {"loss": loss, "temperature": temperature, "rescale": rescale}
        ours = csm(classifier.model, x, sign=False, **chosen)  # type: ignore[arg-type]
        ours_signed = csm(classifier.model, x, **chosen)  # type: ignore[arg-type]
        # The largest logit is constant after rescaling: its own map is zero, float64 leaves rounding noise there.
        zero = exact.flatten(2).abs().amax(2) < 1e-9 * exact.abs().amax() if loss == "logit" and rescale else None
        unsigned = max(unsigned, _largest(ours, reference.cosines(exact), zero))
        signed = max(signed, _largest(ours_signed, reference.cosines(exact.sign()), zero) * d / 4)
        if x.ndim == 4:
            exact, ours = exact.sign().amax(2), csm(classifier.model, x, channel_max=True, **chosen)  # type: ignore[arg-type]
            signed = max(signed, _largest(ours, reference.cosines(exact), zero) * d / x.shape[1] / 4)
    page.data.setdefault("reference", {})[classifier.name] = {"unsigned": unsigned, "signed_in_4_over_d": signed}
    return [classifier.name, str(count), str(len(options)), f"{unsigned:.1e}", f"{signed:.2f}"]


def _largest(ours: Tensor, exact: Tensor, zero: Tensor | None) -> float:
    difference = (ours.double() - exact).abs()
    if zero is not None:
        difference = difference.masked_fill(zero[:, :, None] | zero[:, None, :], 0)
    diagonal = torch.eye(difference.shape[1], dtype=torch.bool)
    return float(difference.masked_fill(diagonal, 0).nan_to_num(0).max())


def _against_singles(page: Page, classifier: ClassifierUnderTest) -> list[str]:
    x, d = classifier.x[:64], classifier.x[0].numel()
    # Named once, for rounding may swap two classes with equal logits.
    classes = classifier.logits[:64].topk(min(10, classifier.logits.shape[1])).indices
    errors = []
    for sign in (False, True):
        together = csm(classifier.model, x, sign=sign, classes=classes)
        singles = [csm(classifier.model, x[i, None], sign=sign, classes=classes[i, None]) for i in range(64)]
        errors.append(float((together - torch.cat(singles)).abs().max()))
    page.data.setdefault("singles", {})[classifier.name] = {
        "unsigned": errors[0],
        "signed_in_4_over_d": errors[1] * d / 4,
    }
    return [classifier.name, f"{errors[0]:.1e}", f"{errors[1] * d / 4:.2f}"]


class _Scaled(nn.Module):
    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.factor * self.model(x)
        return logits


def _saturated(page: Page, classifier: ClassifierUnderTest) -> list[str]:
    x = classifier.x[classifier.half :][:20]
    label = classifier.logits[classifier.half :][:20].argmax(1)
    shares = []
    for factor in (1, 5, 20, 50):
        model = _Scaled(classifier.model, factor)
        ours = saliency_maps(model, x, classes=label[:, None])[:, 0]
        exact = saliency_maps(copy.deepcopy(model).double(), x.double(), classes=label[:, None])[:, 0]
        shares.append(float((ours == exact).double().mean()))
    leaf = x.clone().requires_grad_()
    loss = nn.functional.cross_entropy(_Scaled(classifier.model, 50)(leaf), label, reduction="sum")
    (textbook,) = torch.autograd.grad(loss, leaf)
    shares.append(float((textbook.sign() == exact).double().mean()))
    page.data.setdefault("saturated", {})[classifier.name] = shares
    return [classifier.name, *(f"{100 * share:.2f}" for share in shares)]


def _batch_sizes(page: Page, classifier: ClassifierUnderTest) -> list[str]:
    detector = Detector(classifier.model).fit(classifier.x[:1000])
    x = classifier.x[classifier.half :][:1000]
    usual = detector.outlier_score(x)
    shares = []
    for size in (1, 7, 256):
        detector.batch_size = size
        shares.append(float(((detector.outlier_score(x) - usual).abs() <= 1e-4).double().mean()))
    page.data.setdefault("batch_sizes", {})[classifier.name] = shares
    return [classifier.name, *(f"{share:.1%}" for share in shares)]
